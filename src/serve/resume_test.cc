// An answer that is cut behind any of its events and goes on at a second door is, byte for byte, the one that
// nothing cut. The proxy's part is played here: it strips the notes, adds them up and asks again.
#include <fmt/format.h>

#include <map>
#include <regex>

#include "api/resume.h"
#include "serve/door_testing.h"

namespace baton::serve {
namespace {

constexpr const char* kHeaders = "X-Baton-Resume: 1\r\nX-Request-Id: r1\r\n";

// One event of a stream as the proxy passes it on, and the note that stood in front of it.
struct Event {
  std::optional<api::ResumeNote> note;
  std::string bytes;
};

std::vector<Event> events_of(const std::string& body) {
  std::vector<Event> out;
  for (size_t at = 0; at < body.size();) {
    size_t end = body.find("\n\n", at);
    end = end == std::string::npos ? body.size() : end + 2;
    Event event;
    if (body.compare(at, api::kResumeNotePrefix.size(), api::kResumeNotePrefix) == 0) {
      const size_t line = body.find('\n', at);
      auto note = api::parse_resume_note(std::string_view(body).substr(at, line - at));
      EXPECT_TRUE(note) << note.error().message;
      if (note) event.note = std::move(*note);
      at = line + 1;
    }
    event.bytes = body.substr(at, end - at);
    out.push_back(std::move(event));
    at = end;
  }
  return out;
}

std::string bytes_of(const std::vector<Event>& events, size_t from = 0) {
  std::string out;
  for (size_t i = from; i < events.size(); ++i) out += events[i].bytes;
  return out;
}

// The moment is not the same in two answers.
std::string without_created(const std::string& bytes) {
  static const std::regex created(R"("created":\d+)");
  return std::regex_replace(bytes, created, R"("created":0)");
}

struct Asked {
  const char* name;
  const char* path;
  std::string fields;  // of the body, between the braces
};

std::string chat_fields(const std::string& more) {
  return R"("messages":[{"role":"user","content":"hi"}],"stream":true,)" + more;
}
std::string text_fields(const std::string& more) { return R"("prompt":"x yz","stream":true,)" + more; }

Reply ask(Door& door, const Asked& asked, const std::string& resume = "", const char* headers = kHeaders) {
  const std::string body = "{" + asked.fields + (resume.empty() ? "" : ",\"baton_resume\":" + resume) + "}";
  return door.ask("POST", asked.path, body, headers);
}

void expect_same_behind_every_event(Door& first, Door& second, const Asked& asked) {
  SCOPED_TRACE(asked.name);
  const std::vector<Event> whole = events_of(ask(first, asked).body);
  ASSERT_GT(whole.size(), 2U) << bytes_of(whole);
  EXPECT_EQ(whole.back().bytes, "data: [DONE]\n\n");
  std::optional<api::Resumption> all;
  for (const Event& event : whole) {
    if (event.note) ASSERT_TRUE(api::add_note(all, *event.note));
    EXPECT_EQ(event.note.has_value(), &event != &whole.back()) << event.bytes;
  }
  const bool draws_a_seed = asked.fields.find("\"seed\"") == std::string::npos;
  if (!draws_a_seed) {
    const Reply plain = ask(second, asked, "", "X-Request-Id: r1\r\n");
    EXPECT_EQ(without_created(plain.body), without_created(bytes_of(whole))) << "without notes";
  }
  std::optional<api::Resumption> sum;
  for (size_t cut = 1; cut < whole.size(); ++cut) {
    ASSERT_TRUE(api::add_note(sum, *whole[cut - 1].note));
    const Reply rest = ask(second, asked, api::render_resumption(*sum));
    ASSERT_EQ(rest.status, 200) << rest.body;
    const std::vector<Event> events = events_of(rest.body);
    ASSERT_EQ(bytes_of(events), bytes_of(whole, cut)) << "behind event " << cut;
    // It can be cut again.
    std::optional<api::Resumption> total = sum;
    for (const Event& event : events) {
      if (event.note) ASSERT_TRUE(api::add_note(total, *event.note));
    }
    EXPECT_EQ(total, all);
  }
}

// Sixty ids, of which some token of an answer is soon one.
std::string some_ids() {
  std::string ids = "300";
  for (int id = 301; id < 360; ++id) ids += fmt::format(",{}", id);
  return ids;
}

std::vector<Asked> questions() {
  const char* const kChat = "/v1/chat/completions";
  const char* const kText = "/v1/completions";
  const std::string usage = R"("stream_options":{"include_usage":true},)";
  const std::string each_usage = R"("stream_options":{"include_usage":true,"continuous_usage_stats":true},)";
  // The last character of nearly every piece of text may begin one of these.
  const std::string stops = R"("stop":["e@@","t@@","a@@","o@@"," @@","s@@","n@@","r@@","i@@"],)";
  return {
      {"chat", kChat, chat_fields(R"("seed":5,"max_tokens":12)")},
      {"a seed of the door", kChat, chat_fields(R"("max_tokens":12)")},
      {"usage", kChat, chat_fields(usage + R"("seed":6,"max_tokens":8)")},
      {"usage in each", kChat, chat_fields(each_usage + R"("seed":7,"n":2,"max_tokens":8)")},
      {"logprobs", kChat, chat_fields(R"("seed":8,"max_tokens":8,"logprobs":true,"top_logprobs":3)")},
      {"choices that end apart", kChat,
       chat_fields(usage + R"("seed":9,"n":3,"max_tokens":20,"stop_token_ids":[)" + some_ids() + "]")},
      {"held back", kText, text_fields(stops + R"("seed":10,"max_tokens":24)")},
      {"held back, of two", kChat, chat_fields(stops + R"("seed":11,"n":2,"max_tokens":16)")},
      {"offsets", kText, text_fields(R"("seed":12,"n":2,"max_tokens":10,"logprobs":2)")},
      {"echo with logprobs", kText,
       text_fields(usage + R"("seed":13,"n":2,"echo":true,"max_tokens":6,"logprobs":1)")},
      {"echo alone", kText, text_fields(usage + R"("seed":14,"echo":true,"max_tokens":0)")},
      {"chat echo", kChat,
       R"("messages":[{"role":"assistant","content":"so "}],"echo":true,"stream":true,"n":2,"seed":15,"max_tokens":5)"},
      {"token ids", kText, text_fields(R"("seed":16,"n":2,"max_tokens":6,"return_token_ids":true)")},
      {"chat token ids", kChat,
       chat_fields(stops + R"("seed":17,"n":2,"max_tokens":6,"return_token_ids":true)")},
      {"names of ids", kText,
       text_fields(R"("seed":18,"max_tokens":6,"logprobs":0,"return_tokens_as_token_ids":true)")},
      {"penalties", kText,
       text_fields(
           R"("seed":19,"max_tokens":20,"min_tokens":9,"top_k":5,"repetition_penalty":1.3,"frequency_penalty":0.5,"presence_penalty":0.2,"stop_token_ids":[)" +
           some_ids() + "]")},
      {"special tokens", kText, text_fields(R"("seed":20,"max_tokens":12,"skip_special_tokens":false)")},
      {"greedy", kText, text_fields(R"("temperature":0,"max_tokens":12)")},
  };
}

TEST(ResumedStream, BehindAnyEventIsTheUndisturbedOneByteForByte) {
  Door first;
  Door second;
  for (const Asked& asked : questions()) expect_same_behind_every_event(first, second, asked);
}

// As says(), behind what each choice has.
Script says_on(std::string_view text) {
  return [script = says(text)](const engine::Request& request) {
    std::vector<engine::Answer> out;
    std::map<uint32_t, size_t> place;
    for (engine::Answer& answer : script(request)) {
      if (const auto* event = std::get_if<engine::TokensEvent>(&answer)) {
        const size_t at = place[event->choice]++;
        const bool is_known =
            !request.drawn_before.empty() && (request.drawn_before[event->choice].finished ||
                                              at < request.drawn_before[event->choice].tokens.size());
        if (is_known) continue;
      }
      out.push_back(std::move(answer));
    }
    return out;
  };
}

TEST(ResumedStream, CharactersOverSeveralTokensAndStopStringsAreWhole) {
  Door first(says_on("a\u20acb\U0001F600 sto stop it"));
  Door second(says_on("a\u20acb\U0001F600 sto stop it"));
  for (const char* more :
       {R"("seed":1)", R"("seed":1,"stop":["stop"])", R"("seed":1,"n":2,"stop":["stop","\u20acb"])",
        R"("seed":1,"stop":["stop"],"include_stop_str_in_output":true,"logprobs":0)",
        R"("seed":1,"stop":["\u20acb"],"min_tokens":9)"}) {
    const std::string fields = text_fields(std::string(R"("max_tokens":40,)") + more);
    expect_same_behind_every_event(first, second, {more, "/v1/completions", fields});
  }
}

TEST(ResumedStream, SaysTheCachedTokensOfTheFirstInstance) {
  Door first(says("abc", 2));
  Door second(says_on("abc"));
  const Asked asked{"cached", "/v1/completions",
                    text_fields(R"("seed":1,"stream_options":{"include_usage":true})")};
  const std::vector<Event> whole = events_of(ask(first, asked).body);
  std::optional<api::Resumption> sum;
  ASSERT_TRUE(api::add_note(sum, *whole[0].note));
  const std::string rest = bytes_of(events_of(ask(second, asked, api::render_resumption(*sum)).body));
  EXPECT_EQ(rest, bytes_of(whole, 1));
  EXPECT_NE(rest.find("\"cached_tokens\":2"), std::string::npos);
}

TEST(ResumeNotes, AreWrittenForAStreamOfOnePromptAndOnlyToWhoAsks) {
  Door door(says("abc"));
  const auto notes = [&](const std::string& fields, const char* headers) {
    const std::string body = door.ask("POST", "/v1/completions", "{" + fields + "}", headers).body;
    return body.find(api::kResumeNotePrefix) != std::string::npos;
  };
  EXPECT_TRUE(notes(R"("prompt":"x","stream":true)", kHeaders));
  EXPECT_FALSE(notes(R"("prompt":"x","stream":true)", ""));
  EXPECT_FALSE(notes(R"("prompt":"x","stream":true)", "X-Baton-Resume: 0\r\n"));
  EXPECT_FALSE(notes(R"("prompt":"x")", kHeaders));
  EXPECT_FALSE(notes(R"("prompt":["x","y"],"stream":true)", kHeaders));
}

struct Begun {
  Asked asked{"begun", "/v1/completions", text_fields(R"("seed":1,"max_tokens":20)")};
  api::Resumption sum;

  explicit Begun(Door& door) {
    const std::vector<Event> whole = events_of(ask(door, asked).body);
    std::optional<api::Resumption> notes;
    for (size_t i = 0; i < 2; ++i) CHECK(api::add_note(notes, *whole.at(i).note).has_value());
    sum = *notes;
  }
};

TEST(Resumption, OfNobodyWhoStripsNotesIsNotLookedAt) {
  Door door(says_on("abcdef"));
  const Begun begun(door);
  const Reply reply = ask(door, begun.asked, api::render_resumption(begun.sum), "");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.chunks().size(), ids_of(door.model(), "abcdef").size() + 1);
  EXPECT_EQ(ask(door, begun.asked, "[1]", "").status, 200);
}

TEST(Resumption, ThatDoesNotFitTheRequestIsRefusedByTheNameOfTheField) {
  Door door;
  const Begun begun(door);
  const auto refusal = [&](const std::function<void(api::Resumption&)>& change, std::string fields = "") {
    api::Resumption sum = begun.sum;
    change(sum);
    Asked asked = begun.asked;
    if (!fields.empty()) asked.fields = std::move(fields);
    const Reply reply = ask(door, asked, api::render_resumption(sum));
    if (reply.status != 400) return fmt::format("{} {}", reply.status, reply.body.substr(0, 50));
    EXPECT_EQ(reply.whole().at("error").at("param"), "baton_resume") << reply.body;
    return std::string(reply.whole().at("error").at("message").as_string());
  };
  const auto same = [](api::Resumption&) {};
  EXPECT_TRUE(refusal(same).starts_with("200"));
  EXPECT_NE(refusal([](auto& sum) { ++sum.head.digest; }).find("this instance reads the request otherwise"),
            std::string::npos);
  EXPECT_NE(refusal(same, text_fields(R"("seed":1,"max_tokens":21)")).find("baton_resume.head.digest"),
            std::string::npos);
  EXPECT_NE(refusal(same, text_fields(R"("seed":2,"max_tokens":20)")).find("baton_resume.head.digest"),
            std::string::npos);
  EXPECT_EQ(refusal([](auto& sum) { sum.choices[0].token_ids[1] = kTestVocab; }),
            "baton_resume.choices[0].token_ids[1]: 1024, expected a token id from 0 to 1023");
  EXPECT_EQ(refusal([](auto& sum) { sum.choices.resize(3); }),
            "baton_resume.choices: 3, expected at most n 1");
  EXPECT_EQ(refusal([](auto& sum) { sum.choices[0].token_ids.resize(20, 1); }),
            "baton_resume.choices[0].token_ids has 20 tokens, expected at most 19 (max_tokens is 20)");
  EXPECT_EQ(refusal(same, R"("prompt":"x yz","seed":1,"max_tokens":20)"),
            "baton_resume with stream false, expected stream true");
  EXPECT_EQ(refusal(same, R"("prompt":["x","y"],"stream":true)"),
            "baton_resume with 2 prompts, expected one");
  const std::string text = door.model().tokenizer.decode(begun.sum.choices[0].token_ids, true);
  const std::string stop = json::serialize(json::string(text.substr(text.size() - 1)));
  EXPECT_EQ(refusal(same, text_fields(R"("seed":1,"max_tokens":20,"stop":)" + stop)),
            "baton_resume.choices[0].token_ids: their text has a stop string, expected one that goes on");
}

TEST(ReturnedRequest, EndsItsStreamWithTheWordAndWithoutDone) {
  Door door([](const engine::Request& request) {
    EXPECT_TRUE(request.is_returnable);
    std::vector<engine::Answer> out = says("abc")(request);
    out.resize(3);
    out.emplace_back(engine::ReturnedEvent{.request = request.id, .timeline = {}});
    return out;
  });
  const std::vector<Event> events =
      events_of(ask(door, {"returned", "/v1/completions", text_fields(R"("seed":1)")}).body);
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[1].note->choices[0].ids.size(), 1U);
  EXPECT_TRUE(events[2].note->returned);
  EXPECT_EQ(events[2].bytes, "\n");
  EXPECT_EQ(door.loop().call([&] { return door.desk().recent.entries().back().outcome; }), "returned");
}

}  // namespace
}  // namespace baton::serve
