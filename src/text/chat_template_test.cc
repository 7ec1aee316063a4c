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

}  // namespace
}  // namespace baton::text
