// Every construct of tests/golden/templates/jinja.jsonl, rendered as Jinja2 renders it in transformers'
// environment.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>

#include "text/chat_template.h"
#include "text/jinja/template.h"

namespace baton::text::jinja {
namespace {

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

Result<std::string> render(std::string_view source, const boost::json::object& context) {
  std::vector<std::pair<std::string, Value>> variables;
  for (const auto& [name, json] : context) {
    TRY(Value value, template_value(json));
    variables.emplace_back(std::string(name), std::move(value));
  }
  TRY(const Template compiled, Template::compile(source, golden_time));
  return compiled.render(variables);
}

TEST(Jinja, RendersEveryGoldenConstruct) {
  std::ifstream file(std::string(BATON_SOURCE_DIR) + "/tests/golden/templates/jinja.jsonl", std::ios::binary);
  size_t rows = 0;
  for (std::string line; std::getline(file, line); ++rows) {
    const boost::json::object row = boost::json::parse(line).as_object();
    const std::string source(row.at("template").as_string());
    const auto rendered = render(source, row.at("context").as_object());
    if (const auto* expected = row.if_contains("rendered")) {
      EXPECT_TRUE(rendered) << source << ": " << rendered.error().message;
      if (rendered)
        EXPECT_EQ(*rendered, std::string(expected->as_string())) << "row " << rows << ": " << source;
      continue;
    }
    const std::string error(row.at("error").as_string());
    EXPECT_FALSE(rendered) << "row " << rows << ": " << source << ": expected " << error;
    if (!rendered && error.starts_with("TemplateError: "))
      EXPECT_EQ("TemplateError: " + rendered.error().message, error);
  }
  EXPECT_EQ(rows, 397U);
}

}  // namespace
}  // namespace baton::text::jinja
