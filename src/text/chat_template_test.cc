// Every conversation of tests/golden/templates/golden.jsonl, rendered as transformers renders it, and the
// ways a checkpoint can hold its template.
#include "text/chat_template.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>

namespace baton::text {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

const fs::path kGolden = fs::path(BATON_SOURCE_DIR) / "tests/golden";

std::tm golden_time() {
  std::tm time{};
  time.tm_year = 2026 - 1900;
  time.tm_mon = 2;
  time.tm_mday = 4;
  time.tm_hour = 5;
  time.tm_min = 6;
  time.tm_sec = 7;
  time.tm_wday = 3;
  time.tm_yday = 62;
  return time;
}

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string source_of(const std::string& tokenizer) {
  const fs::path plain = kGolden / "templates" / (tokenizer + ".jinja");
  if (fs::exists(plain)) return read(plain);
  fs::path config = kGolden / "tokenizers" / tokenizer / "tokenizer_config.json";
  if (!fs::exists(config)) {
    const char* data = std::getenv("BATON_TEST_DATA");
    if (!data) return {};
    config = fs::path(data) / "tokenizers" / tokenizer / "tokenizer_config.json";
  }
  if (!fs::exists(config)) return {};
  return std::string(json::parse(read(config)).at("chat_template").as_string());
}

RenderRequest request_of(const json::object& row) {
  RenderRequest request;
  request.messages = row.at("messages").as_array();
  request.tools = row.at("tools");
  request.kwargs = row.at("kwargs").as_object();
  request.add_generation_prompt = row.at("add_generation_prompt").as_bool();
  if (const json::value* continued = request.kwargs.if_contains("continue_final_message")) {
    request.continue_final_message = continued->as_bool();
    request.kwargs.erase("continue_final_message");
  }
  return request;
}

TEST(ChatTemplate, RendersEveryGoldenConversation) {
  std::ifstream file(kGolden / "templates/golden.jsonl", std::ios::binary);
  std::map<std::string, std::string> sources;
  size_t rows = 0;
  size_t skipped = 0;
  for (std::string line; std::getline(file, line); ++rows) {
    const json::object row = json::parse(line).as_object();
    const std::string tokenizer(row.at("tokenizer").as_string());
    if (!sources.contains(tokenizer)) sources[tokenizer] = source_of(tokenizer);
    if (sources[tokenizer].empty()) {
      ++skipped;
      continue;
    }
    const auto compiled =
        ChatTemplate::compile(sources[tokenizer], row.at("special_tokens").as_object(), golden_time);
    ASSERT_TRUE(compiled) << tokenizer << ": " << compiled.error().message;
    const auto rendered = compiled->render(request_of(row));
    if (const json::value* expected = row.if_contains("rendered")) {
      ASSERT_TRUE(rendered) << "row " << rows << " " << tokenizer << ": " << rendered.error().message;
      EXPECT_EQ(*rendered, std::string(expected->as_string())) << "row " << rows << " " << tokenizer;
      continue;
    }
    const std::string error(row.at("error").as_string());
    ASSERT_FALSE(rendered) << "row " << rows << ": expected " << error << ", got " << *rendered;
    EXPECT_EQ(rendered.error().code, Code::kInvalid);
    if (error.starts_with("TemplateError: ")) EXPECT_EQ("TemplateError: " + rendered.error().message, error);
  }
  EXPECT_EQ(rows, 254U);
  if (skipped > 0)
    fmt::print("skipped {} of {} rows: their tokenizer is not in BATON_TEST_DATA\n", skipped, rows);
}

class ModelFolder {
 public:
  explicit ModelFolder(const std::string& name)
      : path_(fs::path(testing::TempDir()) / ("baton_template_" + name)) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~ModelFolder() { fs::remove_all(path_); }
  ModelFolder(const ModelFolder&) = delete;
  ModelFolder& operator=(const ModelFolder&) = delete;
  const fs::path& path() const { return path_; }
  void write(const std::string& file, std::string_view text) const {
    std::ofstream(path_ / file, std::ios::binary) << text;
  }

 private:
  fs::path path_;
};

TEST(ChatTemplate, LoadsTheFileBeforeTheConfig) {
  const ModelFolder model("file");
  model.write("tokenizer_config.json", R"({"chat_template": "config",
      "bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": "</s>", "unk_token": null})");
  EXPECT_EQ(ChatTemplate::load(model.path())->render({}), "config");
  model.write("chat_template.jinja", "{{ bos_token }}{{ eos_token }}{{ unk_token is defined }}");
  EXPECT_EQ(ChatTemplate::load(model.path())->render({}), "<s></s>False");
}

TEST(ChatTemplate, PicksTheNamedTemplateForTools) {
  const ModelFolder model("named");
  model.write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "plain"},
                                                             {"name": "tool_use", "template": "tools"}]})");
  const auto loaded = ChatTemplate::load(model.path());
  ASSERT_TRUE(loaded);
  RenderRequest request;
  EXPECT_EQ(loaded->render(request), "plain");
  request.tools = json::array{json::object{{"type", "function"}}};
  EXPECT_EQ(loaded->render(request), "tools");
}

TEST(ChatTemplate, SaysWhatToDoWithoutOne) {
  const ModelFolder model("none");
  const auto loaded = ChatTemplate::load(model.path());
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, Code::kNotFound);
  EXPECT_NE(loaded.error().message.find("Give one with --chat-template FILE"), std::string::npos);
}

TEST(ChatTemplate, NamesTheFileOfABrokenTemplate) {
  const ModelFolder model("broken");
  model.write("chat_template.jinja", "\n{% if %}");
  const auto loaded = ChatTemplate::load(model.path());
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, Code::kCorrupt);
  EXPECT_NE(loaded.error().message.find("chat_template.jinja: chat template, line 2: expected an expression"),
            std::string::npos);
}

TEST(ChatTemplate, RefusesToContinueWhatIsNotThere) {
  const auto compiled = ChatTemplate::compile("fixed", {});
  RenderRequest request;
  request.add_generation_prompt = false;
  request.continue_final_message = true;
  EXPECT_EQ(compiled->render(request).error().param, "messages");
  request.messages.push_back({{"role", "assistant"}, {"content", "One"}});
  EXPECT_NE(compiled->render(request).error().message.find("does not write the last message"),
            std::string::npos);
  request.add_generation_prompt = true;
  EXPECT_EQ(compiled->render(request).error().param, "continue_final_message");
}

TEST(ChatTemplate, LetsArgumentsReplaceSpecialTokens) {
  const auto compiled = ChatTemplate::compile("{{ bos_token }}{{ tools is none }}{{ documents is none }}",
                                              {{"bos_token", "<s>"}});
  RenderRequest request;
  request.kwargs["bos_token"] = "<t>";
  EXPECT_EQ(compiled->render(request), "<t>TrueTrue");
}

}  // namespace
}  // namespace baton::text
