#include <string>

#include "api/request.h"

namespace baton::api {
namespace {

void join_parts(json::object& message) {
  json::value* content = &message["content"];
  if (content->is_null()) *content = json::string();
  if (!content->is_array()) return;
  std::string text;
  bool first = true;
  for (const json::value& part : content->get_array()) {
    if (!first) text += '\n';
    first = false;
    if (part.is_string()) text += std::string_view(part.get_string());
    if (!part.is_object()) continue;
    const json::value* words = part.get_object().if_contains("text");
    if (words != nullptr && words->is_string()) text += std::string_view(words->get_string());
  }
  *content = json::string(text);
}

void read_arguments(json::object& message) {
  json::value* calls = message.if_contains("tool_calls");
  if (calls == nullptr || !calls->is_array()) return;
  for (json::value& call : calls->get_array()) {
    json::value* function = call.is_object() ? call.get_object().if_contains("function") : nullptr;
    if (function == nullptr || !function->is_object()) continue;
    json::value* arguments = function->get_object().if_contains("arguments");
    if (arguments == nullptr) {
      function->get_object()["arguments"] = json::object();
      continue;
    }
    if (!arguments->is_string()) continue;
    if (arguments->get_string().empty()) {
      *arguments = json::object();
      continue;
    }
    // Text that is not JSON stays text: the template shows it as it is.
    if (auto value = parse_json(arguments->get_string())) *arguments = std::move(*value);
  }
}

}  // namespace

void normalise_messages(json::array& messages) {
  for (json::value& message : messages) {
    if (!message.is_object()) continue;
    join_parts(message.get_object());
    read_arguments(message.get_object());
  }
}

}  // namespace baton::api
