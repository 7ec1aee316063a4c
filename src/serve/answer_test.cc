// A stream joined is the whole answer, whatever was asked for and however the tokens came.
#include "serve/answer.h"

#include <gtest/gtest.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <map>
#include <random>

#include "serve/testing.h"

namespace baton::serve {
namespace {
namespace json = boost::json;

const ServedModel& shared_model() {
  static const ServedModel model = test_model();
  return model;
}

using Random = std::mt19937;
uint32_t below(Random& random, uint32_t bound) { return static_cast<uint32_t>(random() % bound); }
bool coin(Random& random) { return below(random, 2) == 1; }

// What a client asks, and what the engine answers it: tokens by [prompt][choice].
struct Exchange {
  Answer::Kind kind = Answer::Kind::kCompletion;
  api::CommonRequest request;
  std::vector<TokenizedPrompt> prompts;
  std::vector<engine::PromptEvent> prompt_events;
  std::vector<std::vector<engine::DrawnToken>> drawn;  // [prompt * n + choice]
};

engine::PositionLogprobs some_logprobs(Random& random, TokenId token) {
  engine::PositionLogprobs out{.self = {token, -0.125F * static_cast<float>(below(random, 64)), 1},
                               .top = {}};
  for (uint32_t i = 0; i < 2; ++i)
    out.top.push_back({static_cast<TokenId>(below(random, kTestVocab)), -1.0F, i + 1});
  return out;
}

// Ids of text with characters of two and three bytes, whole and cut, and now and then a special token.
std::vector<TokenId> some_tokens(Random& random, uint32_t count) {
  static const std::vector<TokenId> text =
      ids_of(shared_model(), "a\u20acb\u00e9 xyz\U0001F600, stop it\n\n");
  std::vector<TokenId> out;
  for (uint32_t i = 0; i < count; ++i) {
    const bool special = below(random, 12) == 0;
    out.push_back(special ? kTestImStart : text[below(random, static_cast<uint32_t>(text.size()))]);
  }
  return out;
}

Exchange some_exchange(Random& random) {
  Exchange out;
  out.kind = coin(random) ? Answer::Kind::kChat : Answer::Kind::kCompletion;
  api::SamplingFields& sampling = out.request.sampling;
  sampling.n = 1 + static_cast<int32_t>(below(random, 3));
  if (coin(random)) sampling.logprobs = 2;
  if (coin(random)) sampling.stop = {"x", "\u00e9 ", "zz"};
  sampling.include_stop_str_in_output = coin(random);
  sampling.skip_special_tokens = coin(random);
  sampling.min_tokens = static_cast<int32_t>(below(random, 4));
  out.request.echo = coin(random);
  if (out.request.echo && below(random, 4) == 0) sampling.max_tokens = 0;
  out.request.return_token_ids = coin(random);
  out.request.return_tokens_as_token_ids = coin(random);
  const uint32_t prompts = out.kind == Answer::Kind::kChat ? 1 : 1 + below(random, 2);
  for (uint32_t i = 0; i < prompts; ++i) {
    TokenizedPrompt prompt{.tokens = some_tokens(random, 1 + below(random, 5)), .text = {}};
    prompt.text = shared_model().tokenizer.decode(prompt.tokens, false);
    engine::PromptEvent event;
    event.cached_tokens = below(random, 3);
    if (out.request.echo && sampling.logprobs && coin(random)) {  // else a peer has them
      event.prompt_logprobs.emplace_back();
      for (size_t at = 1; at < prompt.tokens.size(); ++at)
        event.prompt_logprobs.emplace_back(some_logprobs(random, prompt.tokens[at]));
    }
    out.prompts.push_back(std::move(prompt));
    out.prompt_events.push_back(std::move(event));
    for (int32_t choice = 0; choice < sampling.n; ++choice) {
      std::vector<engine::DrawnToken> drawn;
      for (const TokenId token : some_tokens(random, 1 + below(random, 9))) {
        engine::DrawnToken one;
        one.token = token;
        if (sampling.logprobs) one.logprobs = some_logprobs(random, token);
        drawn.push_back(std::move(one));
      }
      drawn.back().finish = coin(random) ? engine::FinishReason::kLength : engine::FinishReason::kStop;
      if (drawn.back().finish == engine::FinishReason::kStop && coin(random))
        drawn.back().stop_token = drawn.back().token;
      out.drawn.push_back(std::move(drawn));
    }
  }
  return out;
}

// Feeds an answer, cutting the tokens into bursts; returns what is taken of it after each.
std::string feed(Answer& answer, const Exchange& exchange, Random& random) {
  std::string events;
  for (const TokenizedPrompt& prompt : exchange.prompts) CHECK(answer.add_prompt(prompt).has_value());
  for (uint32_t i = 0; i < exchange.prompts.size(); ++i) answer.take(i, exchange.prompt_events[i]);
  const auto n = static_cast<uint32_t>(exchange.request.sampling.n);
  std::vector<size_t> done(exchange.drawn.size(), 0);
  std::vector<uint32_t> open(exchange.drawn.size());
  for (uint32_t i = 0; i < open.size(); ++i) open[i] = i;
  while (!open.empty()) {
    const uint32_t pick = below(random, static_cast<uint32_t>(open.size()));
    const uint32_t which = open[pick];
    const auto& tokens = exchange.drawn[which];
    const size_t count = std::min<size_t>(1 + below(random, 3), tokens.size() - done[which]);
    engine::TokensEvent event;
    event.choice = which % n;
    for (size_t i = 0; i < count; ++i) event.tokens.push_back(tokens[done[which]++]);
    const Answer::Taken taken = answer.take(which / n, event);
    events += answer.take_events();
    // A stop string ends the choice at the engine too, which may have run ahead.
    if ((!taken.hit_stop.empty() && coin(random)) || done[which] == tokens.size())
      open.erase(open.begin() + pick);
  }
  return events;
}

void append(json::value& to, const json::value& more) {
  if (to.is_null()) to = json::array();
  for (const auto& entry : more.as_array()) to.as_array().push_back(entry);
}

// The choices of a stream as those of a whole answer, and what stands beside them.
struct Joined {
  std::map<int64_t, json::object> choices;
  json::value prompt_token_ids;
  json::value usage;
};
void join(json::object& sum, const json::object& piece, bool chat) {
  const json::value* text =
      chat ? piece.at("delta").as_object().if_contains("content") : piece.if_contains("text");
  std::string so_far = sum.contains("text") ? std::string(sum["text"].as_string()) : "";
  sum["text"] = so_far + std::string(text->as_string());
  EXPECT_TRUE(!sum.contains("finish_reason") || sum["finish_reason"].is_null()) << "a chunk behind the last";
  sum["finish_reason"] = piece.at("finish_reason");
  if (piece.contains("stop_reason")) sum["stop_reason"] = piece.at("stop_reason");
  for (const char* key : {"token_ids", "prompt_token_ids"}) {
    if (piece.contains(key)) append(sum[key], piece.at(key));
  }
  if (!piece.at("logprobs").is_object()) return;
  if (!sum.contains("logprobs")) sum["logprobs"] = json::object();
  for (const auto& [key, value] : piece.at("logprobs").as_object())
    append(sum["logprobs"].as_object()[key], value);
}
Joined joined(std::string_view events, bool chat) {
  Joined out;
  while (!events.empty()) {
    const size_t end = events.find("\n\n");
    const std::string_view data = events.substr(6, end - 6);
    events.remove_prefix(end + 2);
    if (data == "[DONE]") {
      EXPECT_TRUE(events.empty());
      break;
    }
    const json::value chunk = json::parse(data);
    if (chunk.as_object().contains("prompt_token_ids"))
      append(out.prompt_token_ids, chunk.at("prompt_token_ids"));
    if (chunk.as_object().contains("usage")) out.usage = chunk.at("usage");
    for (const json::value& piece : chunk.at("choices").as_array())
      join(out.choices[piece.at("index").to_number<int64_t>()], piece.as_object(), chat);
  }
  return out;
}

json::value member(const json::object& object, const char* key) {
  const json::value* found = object.if_contains(key);
  return found == nullptr ? json::value() : *found;
}

void compare(const Exchange& exchange, const json::object& whole, const Joined& stream) {
  const bool chat = exchange.kind == Answer::Kind::kChat;
  EXPECT_EQ(whole.at("usage"), stream.usage);
  EXPECT_EQ(whole.at("choices").as_array().size(), exchange.drawn.size());
  EXPECT_EQ(stream.choices.size(), exchange.drawn.size());
  for (const json::value& value : whole.at("choices").as_array()) {
    const json::object& choice = value.as_object();
    const json::object& sum = stream.choices.at(choice.at("index").to_number<int64_t>());
    if (exchange.request.echo && exchange.request.sampling.max_tokens == 0) {
      const size_t prompt = static_cast<size_t>(choice.at("index").to_number<int64_t>()) /
                            static_cast<size_t>(exchange.request.sampling.n);
      EXPECT_EQ(std::string_view(sum.at("text").as_string()), exchange.prompts[prompt].text);
    }
    EXPECT_EQ(sum.at("text"), chat ? choice.at("message").at("content") : choice.at("text"));
    for (const char* key : {"finish_reason", "stop_reason", "token_ids", "logprobs"})
      EXPECT_EQ(member(sum, key), member(choice, key)) << key;
    if (!chat) EXPECT_EQ(member(sum, "prompt_token_ids"), member(choice, "prompt_token_ids"));
  }
}

TEST(Answer, AStreamJoinedIsTheWholeAnswerWhateverWasAskedFor) {
  Random random(7);
  for (int run = 0; run < 400 && !testing::Test::HasFailure(); ++run) {
    Exchange exchange = some_exchange(random);
    const api::ResponseHead head{.id = "id",
                                 .created_s = 1,
                                 .model = "m",
                                 .tokens_as_ids = exchange.request.return_tokens_as_token_ids};
    Answer whole(exchange.kind, exchange.request, head, shared_model().tokenizer);
    EXPECT_EQ(feed(whole, exchange, random), "");
    const json::value body = json::parse(whole.take_body({}, {}));

    api::CommonRequest asked = exchange.request;
    asked.stream = true;
    asked.include_usage = true;
    asked.continuous_usage_stats = coin(random);
    Answer stream(exchange.kind, asked, head, shared_model().tokenizer);
    std::string events = feed(stream, exchange, random);
    events += stream.last_events({});
    EXPECT_EQ(whole.finish_reasons(), stream.finish_reasons());
    compare(exchange, body.as_object(), joined(events, exchange.kind == Answer::Kind::kChat));
    if (testing::Test::HasFailure())
      ADD_FAILURE() << "run " << run << "\n" << json::serialize(body) << "\n" << events;
  }
}

}  // namespace
}  // namespace baton::serve
