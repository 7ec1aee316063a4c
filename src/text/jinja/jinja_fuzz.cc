// Any bytes as a template, over a small conversation. Whatever they are, the outcome is text or an error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <boost/json.hpp>

#include "base/check.h"
#include "text/chat_template.h"
#include "text/jinja/template.h"

namespace {

constexpr uint64_t kFuzzStepsMax = 20'000;  // keeps an execution short
constexpr std::string_view kContext = R"({
  "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": " né😀 "},
               {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}],
  "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
  "items": [3, 1, 2], "d": {"b": 1, "a": 2.5}, "s": "  Hello World  ", "n": null, "t": true, "e": [],
  "add_generation_prompt": true, "bos_token": "<s>"})";

std::vector<std::pair<std::string, baton::text::jinja::Value>> context() {
  std::vector<std::pair<std::string, baton::text::jinja::Value>> variables;
  for (const auto& [name, json] : boost::json::parse(kContext).as_object()) {
    auto value = baton::text::template_value(json);
    CHECK(value.has_value());
    variables.emplace_back(std::string(name), *std::move(value));
  }
  return variables;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto kVariables = context();
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto compiled = baton::text::jinja::Template::compile(source, [] { return std::tm{}; });
  if (!compiled) return 0;
  const auto rendered = compiled->render(kVariables, kFuzzStepsMax);
  CHECK(rendered.has_value() || rendered.error().code == baton::Code::kInvalid);
  return 0;
}
