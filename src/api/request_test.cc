#include "api/request.h"

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>

namespace baton::api {
namespace {

const RequestLimits kLimits{.max_logprobs = 5, .vocab_size = 100};

Result<CompletionRequest> completion(const std::string& fields) {
  return parse_completion_request(R"({"prompt":"p")" + (fields.empty() ? "" : "," + fields) + "}", kLimits);
}
Result<ChatRequest> chat(const std::string& fields) {
  return parse_chat_request(
      R"({"messages":[{"role":"user","content":"hi"}])" + (fields.empty() ? "" : "," + fields) + "}",
      kLimits);
}

TEST(CompletionRequest, ReadsEveryField) {
  const auto request = completion(
      R"("model":"m","temperature":0.5,"top_p":"0.9","top_k":-1,"min_p":0.1,"repetition_penalty":1.1,)"
      R"("presence_penalty":-2,"frequency_penalty":2,"logit_bias":{"7":-200,"3":1.5},"seed":-9223372036854775808,)"
      R"("n":2,"best_of":2,"stop":["a","b"],"stop_token_ids":[1,99],"include_stop_str_in_output":true,)"
      R"("ignore_eos":1,"min_tokens":2,"max_tokens":"10","logprobs":0,"prompt_logprobs":5,"echo":true,)"
      R"("return_token_ids":true,"return_tokens_as_token_ids":true,"cache_salt":"s","priority":-3,"user":"u",)"
      R"("skip_special_tokens":false,"spaces_between_special_tokens":false,"add_special_tokens":false,)"
      R"("request_id":"r-1","kv_transfer_params":{"do_remote_prefill":true},"response_format":{"type":"text"},)"
      R"("top_a":1,"guided_json":null,"use_beam_search":false)");
  ASSERT_TRUE(request) << request.error().message;
  const SamplingFields& s = request->sampling;
  EXPECT_EQ(request->model, "m");
  EXPECT_EQ(s.temperature, 0.5F);
  EXPECT_EQ(s.top_p, 0.9F);
  EXPECT_EQ(s.top_k, -1);
  EXPECT_EQ(s.min_p, 0.1F);
  EXPECT_EQ(s.repetition_penalty, 1.1F);
  EXPECT_EQ(s.presence_penalty, -2.0F);
  EXPECT_EQ(s.frequency_penalty, 2.0F);
  EXPECT_EQ(s.logit_bias, (std::vector<LogitBias>{{3, 1.5F}, {7, -100.0F}}));
  EXPECT_EQ(s.seed, INT64_MIN);
  EXPECT_EQ(s.n, 2);
  EXPECT_EQ(s.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(s.stop_token_ids, (std::vector<TokenId>{1, 99}));
  EXPECT_TRUE(s.include_stop_str_in_output && s.ignore_eos);
  EXPECT_FALSE(s.skip_special_tokens || s.spaces_between_special_tokens || request->add_special_tokens);
  EXPECT_EQ(s.min_tokens, 2);
  EXPECT_EQ(s.max_tokens, 10);
  EXPECT_EQ(s.logprobs, 0);
  EXPECT_EQ(s.prompt_logprobs, 5);
  EXPECT_TRUE(request->echo && request->return_token_ids && request->return_tokens_as_token_ids);
  EXPECT_EQ(request->cache_salt, "s");
  EXPECT_EQ(request->priority, -3);
  EXPECT_EQ(request->request_id, "r-1");
  EXPECT_TRUE(request->kv_transfer_params);
  EXPECT_EQ(request->unknown_fields, std::vector<std::string>{"top_a"});
}

TEST(CompletionRequest, NullIsNotGiven) {
  const auto request = completion(
      R"("temperature":null,"n":null,"stop":null,"stream":null,"stream_options":null,"logit_bias":null)");
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->sampling, SamplingFields{});
  EXPECT_TRUE(request->unknown_fields.empty());
}

TEST(CompletionRequest, TakesPromptsInFourForms) {
  const auto parse = [](const std::string& prompt) {
    return parse_completion_request(R"({"prompt":)" + prompt + "}", kLimits);
  };
  EXPECT_EQ(parse(R"("a")")->prompts, (std::vector<Prompt>{"a"}));
  EXPECT_EQ(parse("[1,2]")->prompts, (std::vector<Prompt>{std::vector<TokenId>{1, 2}}));
  EXPECT_EQ(parse(R"(["a","b"])")->prompts, (std::vector<Prompt>{"a", "b"}));
  EXPECT_EQ(parse("[[1],[2,3]]")->prompts,
            (std::vector<Prompt>{std::vector<TokenId>{1}, std::vector<TokenId>{2, 3}}));
}

TEST(CompletionRequest, EachMistakeNamesFieldValueAndExpectation) {
  struct Row {
    std::string fields;
    std::string_view message;
    std::string_view param;
  };
  const std::string long_stop(kStopStringBytesMax + 1, 'x');
  const std::vector<Row> rows = {
      {R"("temperature":-1)", "temperature: -1, expected a number from 0 to 1000", "temperature"},
      {R"("temperature":"hot")", "temperature: \"hot\", expected a number from 0 to 1000", "temperature"},
      {R"("temperature":true)", "temperature: true, expected a number from 0 to 1000", "temperature"},
      {R"("top_p":0)", "top_p: 0, expected a number above 0, at most 1", "top_p"},
      {R"("top_p":1e-60)", "top_p: 1e-60, expected a number that float32 tells from 0", "top_p"},
      {R"("top_k":-2)", "top_k: -2, expected an integer from -1 to 2147483647", "top_k"},
      {R"("top_k":1.5)", "top_k: 1.5, expected an integer from -1 to 2147483647", "top_k"},
      {R"("min_p":1.5)", "min_p: 1.5, expected a number from 0 to 1", "min_p"},
      {R"("presence_penalty":3)", "presence_penalty: 3, expected a number from -2 to 2", "presence_penalty"},
      {R"("n":0)", "n: 0, expected an integer from 1 to 128", "n"},
      {R"("n":129)", "n: 129, expected an integer from 1 to 128", "n"},
      {R"("best_of":3)", "best_of: 3, expected the value of n, 1", "best_of"},
      {R"("seed":9223372036854775808)",
       "seed: 9223372036854775808, expected an integer from -9223372036854775808 to 9223372036854775807",
       "seed"},
      {R"("stop":1)", "stop: 1, expected a string or a list of strings", "stop"},
      {R"("stop":[""])", "stop[0]: 0 bytes, expected 1 to 1024", "stop"},
      {"\"stop\":\"" + long_stop + "\"", "stop[0]: 1025 bytes, expected 1 to 1024", "stop"},
      {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])",
       "stop: 17 strings, expected at most 16", "stop"},
      {R"("stop_token_ids":[1,100])", "stop_token_ids[1]: 100, expected a token id from 0 to 99",
       "stop_token_ids"},
      {R"("logit_bias":[1])", "logit_bias: [1], expected an object from token id to bias", "logit_bias"},
      {R"("logit_bias":{"x":1})", "logit_bias: \"x\", expected token ids from 0 to 99 as keys", "logit_bias"},
      {R"("logit_bias":{"1":"x"})", "logit_bias[1]: \"x\", expected a number", "logit_bias"},
      {R"("logit_bias":{"1":1,"01":2})", "logit_bias: 1, expected each token id once", "logit_bias"},
      {R"("min_tokens":5,"max_tokens":4)", "min_tokens: 5, expected at most max_tokens, 4", "min_tokens"},
      {R"("max_tokens":0)", "max_tokens: 0, expected at least 1 unless echo is true", "max_tokens"},
      {R"("max_tokens":-1)", "max_tokens: -1, expected an integer from 0 to 1073741824", "max_tokens"},
      {R"("logprobs":6)", "logprobs: 6, expected an integer from 0 to 5", "logprobs"},
      {R"("prompt_logprobs":1,"stream":true)", "prompt_logprobs: 1, expected none when stream is true",
       "prompt_logprobs"},
      {R"("stream_options":{"include_usage":true})",
       "stream_options: {\"include_usage\":true}, expected none unless stream is true", "stream_options"},
      {R"("stream":"yes")", "stream: \"yes\", expected true or false", "stream"},
      {R"("cache_salt":"")", "cache_salt: \"\", expected a string that is not empty", "cache_salt"},
      {R"("request_id":"a b")", "request_id: \"a b\", expected printable ASCII without blanks", "request_id"},
      {R"("kv_transfer_params":1)", "kv_transfer_params: 1, expected an object or a list of objects",
       "kv_transfer_params"},
      {R"("response_format":{"type":"json_object"})",
       "response_format: type \"json_object\" is not supported yet, expected \"text\"", "response_format"},
      {R"("guided_regex":"a*")", "guided_regex: \"a*\" is not supported yet", "guided_regex"},
      {R"("suffix":"x")", "suffix: \"x\" is not supported yet", "suffix"},
  };
  for (const Row& row : rows) {
    const auto request = completion(row.fields);
    ASSERT_FALSE(request) << row.message;
    EXPECT_EQ(request.error(), (Error{Code::kInvalid, std::string(row.message), std::string(row.param)}));
  }
}

TEST(CompletionRequest, RefusesPromptsThatAreNone) {
  struct Row {
    std::string_view body;
    std::string_view message;
  };
  for (const Row& row :
       {Row{"{}", "prompt: missing, expected text or token ids"},
        Row{R"({"prompt":[]})", "prompt: [], expected text, token ids, or a list of either, not empty"},
        Row{R"({"prompt":["a",[1]]})", "prompt: [\"a\",[1]], expected all texts or all lists of token ids"},
        Row{R"({"prompt":[[]]})", "prompt[0]: [], expected text, token ids, or a list of either, not empty"},
        Row{R"({"prompt":[1,-1]})", "prompt[1]: -1, expected a token id from 0 to 99"},
        Row{R"({"prompt":[[1],[100]]})", "prompt[1][0]: 100, expected a token id from 0 to 99"},
        Row{"[]", "body: [], expected a JSON object"}}) {
    const auto request = parse_completion_request(row.body, kLimits);
    ASSERT_FALSE(request) << row.message;
    EXPECT_EQ(request.error().message, row.message);
  }
  std::string many = R"({"n":128,"prompt":["a")";
  for (int i = 1; i < 9; ++i) many += ",\"a\"";
  EXPECT_EQ(parse_completion_request(many + "]}", kLimits).error().message,
            "n: 128 for each of 9 prompts is 1152 answers, expected at most 1024");
}

TEST(CompletionRequest, EchoMayAskForNoAnswer) {
  EXPECT_EQ(completion(R"("echo":true,"max_tokens":0)")->sampling.max_tokens, 0);
}

TEST(ChatRequest, ReadsWhatChatsHave) {
  const auto request = parse_chat_request(
      R"({"messages":[{"role":"system","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},)"
      R"({"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\"x\":1}"}}]}],)"
      R"("tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"auto","logprobs":true,"top_logprobs":3,)"
      R"("max_tokens":9,"max_completion_tokens":4,"add_generation_prompt":false,"continue_final_message":true,)"
      R"("chat_template_kwargs":{"enable_thinking":false},"stream":true,)"
      R"("stream_options":{"include_usage":true,"continuous_usage_stats":true}})",
      kLimits);
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->sampling.logprobs, 3);
  EXPECT_EQ(request->sampling.max_tokens, 4);
  EXPECT_FALSE(request->tool_choice_none);
  EXPECT_TRUE(request->tools && request->include_usage && request->continuous_usage_stats);
  EXPECT_FALSE(request->chat_template_kwargs.at("enable_thinking").get_bool());
  json::array messages = request->messages;
  normalise_messages(messages);
  EXPECT_EQ(json::serialize(messages),
            R"([{"role":"system","content":"a\nb"},{"role":"assistant","content":"","tool_calls":)"
            R"([{"function":{"name":"f","arguments":{"x":1}}}]}])");
  messages = parse_json(R"([{"role":"user"},{"role":"user","content":null},{"role":"user","content":[]}])")
                 ->as_array();
  normalise_messages(messages);
  for (const json::value& message : messages) EXPECT_EQ(message.at("content"), "");
}

TEST(ChatRequest, EachMistakeNamesFieldValueAndExpectation) {
  struct Row {
    std::string_view body;
    std::string_view message;
  };
  for (const Row& row :
       {Row{"{}", "messages: missing, expected a list of messages"},
        Row{R"({"messages":[]})", "messages: [], expected a list of messages, not empty"},
        Row{R"({"messages":["a"]})", "messages[0]: \"a\", expected an object with role and content"},
        Row{R"({"messages":[{"content":"a"}]})", "messages[0]: {\"content\":\"a\"}, expected a role"},
        Row{R"({"messages":[{"role":"user","content":1}]})",
            "messages[0].content: 1, expected a string or a list of parts"},
        Row{R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})",
            "messages[0].content[0].type: \"image_url\", expected \"text\": this server takes text only"},
        Row{R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})",
            "messages[0].content[0]: {\"type\":\"text\"}, expected a string as its text"}}) {
    const auto request = parse_chat_request(row.body, kLimits);
    ASSERT_FALSE(request) << row.message;
    EXPECT_EQ(request.error().message, row.message);
    EXPECT_EQ(request.error().param, "messages");
  }
  EXPECT_EQ(chat(R"("top_logprobs":2)").error().message,
            "top_logprobs: 2, expected none unless logprobs is true");
  EXPECT_EQ(chat(R"("max_tokens":0)").error().message, "max_tokens: 0, expected at least 1");
  EXPECT_EQ(chat(R"("continue_final_message":true)").error().message,
            "continue_final_message: true, expected add_generation_prompt false beside it");
  EXPECT_EQ(chat(R"("tools":[{"function":{}}])").error().message,
            "tools[0]: {\"function\":{}}, expected an object with a function that has a name");
  EXPECT_EQ(chat(R"("tools":[{"function":{"name":"f"}}],"tool_choice":"required")").error().message,
            "tool_choice: \"required\" is not supported yet, expected none or auto");
  EXPECT_EQ(chat(R"("chat_template":"x")").error().code, Code::kInvalid);
  RequestLimits trusting = kLimits;
  trusting.trust_chat_template = true;
  EXPECT_EQ(
      parse_chat_request(R"({"messages":[{"role":"user"}],"chat_template":"x"})", trusting)->chat_template,
      "x");
}

TEST(Resolve, TakesTheClientsWordThenTheServersThenTheNeutralOne) {
  SamplingFields fields;
  SamplingDefaults defaults;
  EXPECT_EQ(resolve(fields, defaults, 100, std::nullopt).max_tokens, 100);
  EXPECT_EQ(resolve(fields, defaults, 100, kCompletionTokensDefault).max_tokens, 16);
  EXPECT_EQ(resolve(fields, defaults, 7, kCompletionTokensDefault).max_tokens, 7);
  defaults.temperature = 0.6F;
  defaults.top_k = 20;
  defaults.max_new_tokens = 12;
  EXPECT_EQ(resolve(fields, defaults, 100, std::nullopt).max_tokens, 12);
  EXPECT_EQ(resolve(fields, defaults, 100, std::nullopt).temperature, 0.6F);
  EXPECT_EQ(resolve(fields, defaults, 100, std::nullopt).top_k, 20);
  fields.temperature = 0.0F;
  fields.top_k = -1;
  fields.max_tokens = 5;
  const Sampling sampling = resolve(fields, defaults, 100, kCompletionTokensDefault);
  EXPECT_EQ(sampling.temperature, 0.0F);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_EQ(sampling.max_tokens, 5);
  EXPECT_EQ(sampling.top_p, 1.0F);
}

TEST(SmallRequests, ReadWhatTheyNeed) {
  EXPECT_EQ(std::get<std::string>(parse_tokenize_request(R"({"prompt":"a"})", kLimits)->input), "a");
  EXPECT_FALSE(
      parse_tokenize_request(R"({"messages":[{"role":"user","content":"a"}]})", kLimits)->add_special_tokens);
  EXPECT_EQ(parse_tokenize_request("{}", kLimits).error().message,
            "prompt: missing, expected text, or messages");
  EXPECT_EQ(parse_detokenize_request(R"({"tokens":[1,2]})", kLimits)->tokens, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(parse_detokenize_request("{}", kLimits).error().param, "tokens");
  EXPECT_EQ(parse_abort_request(R"({"request_id":["a","b"]})"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(parse_abort_request(R"({"request_id":[]})").error().message,
            "request_id: [], expected a name or a list of names, not empty");
}

}  // namespace
}  // namespace baton::api
