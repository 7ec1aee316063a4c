#include "api/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "api/fields.h"
#include "api/shared_fields.h"

namespace baton::api {
namespace {

constexpr auto kCompletionFields = std::to_array<std::string_view>({"prompt", "add_special_tokens"});
constexpr auto kChatFields = std::to_array<std::string_view>(
    {"messages", "tools", "tool_choice", "parallel_tool_calls", "top_logprobs", "add_generation_prompt",
     "continue_final_message", "add_special_tokens", "chat_template", "chat_template_kwargs", "documents"});

Result<Prompt> read_prompt(const json::value& value, std::string_view name, const RequestLimits& limits) {
  if (value.is_string()) return Prompt(std::string(value.get_string()));
  if (!value.is_array() || value.get_array().empty()) {
    return refuse_field(name, value, "text, token ids, or a list of either, not empty");
  }
  TRY(auto ids, read_token_ids(value, name, kPromptTokensMax, limits.vocab_size));
  return Prompt(std::move(ids));
}

Result<std::vector<Prompt>> read_prompts(const json::object& body, const RequestLimits& limits) {
  const json::value* value = find_field(body, "prompt");
  if (value == nullptr) return fail(Code::kInvalid, "prompt: missing, expected text or token ids", "prompt");
  std::vector<Prompt> prompts;
  const bool is_one = !value->is_array() || value->get_array().empty() || value->get_array()[0].is_number();
  if (is_one) {
    TRY(auto prompt, read_prompt(*value, "prompt", limits));
    prompts.push_back(std::move(prompt));
    return prompts;
  }
  const json::array& list = value->get_array();
  if (list.size() > kPromptsMax) {
    return fail(Code::kInvalid,
                fmt::format("prompt: {} prompts, expected at most {}", list.size(), kPromptsMax), "prompt");
  }
  for (size_t i = 0; i < list.size(); ++i) {
    TRY(auto prompt, read_prompt(list[i], fmt::format("prompt[{}]", i), limits));
    if (prompt.index() != (list[0].is_string() ? 0U : 1U)) {
      return refuse_field("prompt", *value, "all texts or all lists of token ids");
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

Result<void> check_content(const json::object& message, size_t index) {
  const std::string place = fmt::format("messages[{}].content", index);
  const json::value* content = find_field(message, "content");
  if (content == nullptr || content->is_string()) return {};
  if (!content->is_array()) return refuse_field(place, *content, "a string or a list of parts");
  const json::array& parts = content->get_array();
  if (parts.size() > kContentPartsMax) {
    return fail(Code::kInvalid,
                fmt::format("{}: {} parts, expected at most {}", place, parts.size(), kContentPartsMax),
                "messages");
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string part_place = fmt::format("{}[{}]", place, i);
    if (parts[i].is_string()) continue;
    if (!parts[i].is_object()) return refuse_field(part_place, parts[i], "an object with a type");
    const json::object& part = parts[i].get_object();
    const json::value* type = find_field(part, "type");
    if (type == nullptr || !type->is_string())
      return refuse_field(part_place, parts[i], "an object with a type");
    if (type->get_string() != "text") {
      return refuse_field(part_place + ".type", *type, "\"text\": this server takes text only");
    }
    const json::value* text = find_field(part, "text");
    if (text == nullptr || !text->is_string())
      return refuse_field(part_place, parts[i], "a string as its text");
  }
  return {};
}

Result<json::array> read_messages(const json::object& body) {
  const json::value* value = find_field(body, "messages");
  if (value == nullptr)
    return fail(Code::kInvalid, "messages: missing, expected a list of messages", "messages");
  if (!value->is_array() || value->get_array().empty()) {
    return refuse_field("messages", *value, "a list of messages, not empty");
  }
  const json::array& messages = value->get_array();
  if (messages.size() > kMessagesMax) {
    return fail(Code::kInvalid,
                fmt::format("messages: {}, expected at most {}", messages.size(), kMessagesMax), "messages");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string place = fmt::format("messages[{}]", i);
    if (!messages[i].is_object()) return refuse_field(place, messages[i], "an object with role and content");
    const json::object& message = messages[i].get_object();
    const json::value* role = find_field(message, "role");
    if (role == nullptr) return refuse_field(place, messages[i], "a role");
    if (!role->is_string() || role->get_string().empty())
      return refuse_field(place + ".role", *role, "a name");
    TRY_DO(check_content(message, i));
  }
  return messages;
}

Result<void> read_tools(const json::object& body, ChatRequest& request) {
  if (const json::value* tools = find_field(body, "tools"); tools != nullptr && asks_for_something(*tools)) {
    if (!tools->is_array()) return refuse_field("tools", *tools, "a list of tools");
    const json::array& list = tools->get_array();
    if (list.size() > kToolsMax) {
      return fail(Code::kInvalid, fmt::format("tools: {}, expected at most {}", list.size(), kToolsMax),
                  "tools");
    }
    for (size_t i = 0; i < list.size(); ++i) {
      const json::value* function =
          list[i].is_object() ? find_field(list[i].get_object(), "function") : nullptr;
      const json::value* name =
          function != nullptr && function->is_object() ? find_field(function->get_object(), "name") : nullptr;
      if (name == nullptr || !name->is_string()) {
        return refuse_field(fmt::format("tools[{}]", i), list[i],
                            "an object with a function that has a name");
      }
    }
    request.tools = list;
  }
  request.tool_choice_none = !request.tools;
  const json::value* choice = find_field(body, "tool_choice");
  if (choice == nullptr) return {};
  if (choice->is_string() && choice->get_string() == "none") {
    request.tool_choice_none = true;
    return {};
  }
  if (choice->is_string() && choice->get_string() == "auto") return {};
  if (!request.tools) return refuse_field("tool_choice", *choice, "none or auto when there are no tools");
  return fail(Code::kInvalid,
              fmt::format("tool_choice: {} is not supported yet, expected none or auto", excerpt(*choice)),
              "tool_choice");
}

Result<void> read_template(const json::object& body, const RequestLimits& limits, ChatRequest& request) {
  TRY(auto text, read_text(body, "chat_template", limits.body_bytes_max));
  if (text && !limits.trust_chat_template) {
    return fail(Code::kInvalid,
                "chat_template: the server takes none from clients (--trust-request-chat-template)",
                "chat_template");
  }
  request.chat_template = std::move(text).value_or("");
  if (const json::value* words = find_field(body, "chat_template_kwargs")) {
    if (!words->is_object()) return refuse_field("chat_template_kwargs", *words, "an object");
    request.chat_template_kwargs = words->get_object();
  }
  if (const json::value* documents = find_field(body, "documents")) {
    if (!documents->is_array()) return refuse_field("documents", *documents, "a list of objects");
    request.chat_template_kwargs["documents"] = *documents;
  }
  return {};
}

Result<void> read_chat_logprobs(const json::object& body, const RequestLimits& limits, ChatRequest& request) {
  TRY(const auto logprobs, read_switch(body, "logprobs"));
  TRY(const auto top, read_integer(body, "top_logprobs", 0, limits.max_logprobs));
  if (logprobs.value_or(false)) {
    request.sampling.logprobs = static_cast<int32_t>(top.value_or(0));
  } else if (top && *top > 0) {
    return refuse_field("top_logprobs", *top, "none unless logprobs is true");
  }
  return {};
}

// The messages and how the template reads them: what /tokenize takes of a chat.
Result<void> read_conversation(const json::object& body, const RequestLimits& limits, ChatRequest& request) {
  TRY(request.messages, read_messages(body));
  TRY_DO(read_tools(body, request));
  TRY_DO(read_template(body, limits, request));
  TRY(const auto generation, read_switch(body, "add_generation_prompt"));
  TRY(const auto continued, read_switch(body, "continue_final_message"));
  TRY(const auto special, read_switch(body, "add_special_tokens"));
  request.add_generation_prompt = generation.value_or(true);
  request.continue_final_message = continued.value_or(false);
  request.add_special_tokens = special.value_or(false);
  if (request.continue_final_message && request.add_generation_prompt) {
    return refuse_field("continue_final_message", true, "add_generation_prompt false beside it");
  }
  return {};
}

}  // namespace

Result<CompletionRequest> parse_completion_request(std::string_view body, const RequestLimits& limits) {
  TRY(const json::object object, parse_json_object(body, limits.body_bytes_max));
  CompletionRequest request;
  TRY(request.prompts, read_prompts(object, limits));
  TRY_DO(read_common(object, limits, request));
  TRY(const auto special, read_switch(object, "add_special_tokens"));
  request.add_special_tokens = special.value_or(true);
  TRY(const auto logprobs, read_integer(object, "logprobs", 0, limits.max_logprobs));
  if (logprobs) request.sampling.logprobs = static_cast<int32_t>(*logprobs);
  if (request.sampling.max_tokens == 0 && !request.echo) {
    return refuse_field("max_tokens", 0, "at least 1 unless echo is true");
  }
  TRY_DO(check_common(object, request));
  const size_t choices = request.prompts.size() * static_cast<size_t>(request.sampling.n);
  if (choices > kChoicesMax) {
    return fail(Code::kInvalid,
                fmt::format("n: {} for each of {} prompts is {} answers, expected at most {}",
                            request.sampling.n, request.prompts.size(), choices, kChoicesMax),
                "n");
  }
  request.unknown_fields = unknown_fields(object, kCompletionFields);
  return request;
}

Result<ChatRequest> parse_chat_request(std::string_view body, const RequestLimits& limits) {
  TRY(const json::object object, parse_json_object(body, limits.body_bytes_max));
  ChatRequest request;
  TRY_DO(read_conversation(object, limits, request));
  TRY_DO(read_common(object, limits, request));
  TRY_DO(read_chat_logprobs(object, limits, request));
  if (request.sampling.max_tokens == 0) return refuse_field("max_tokens", 0, "at least 1");
  TRY_DO(check_common(object, request));
  request.unknown_fields = unknown_fields(object, kChatFields);
  return request;
}

Result<TokenizeRequest> parse_tokenize_request(std::string_view body, const RequestLimits& limits) {
  TRY(const json::object object, parse_json_object(body, limits.body_bytes_max));
  TokenizeRequest request;
  TRY(auto model, read_text(object, "model", kNameBytesMax));
  request.model = std::move(model).value_or("");
  TRY(const auto strings, read_switch(object, "return_token_strs"));
  request.return_token_strs = strings.value_or(false);
  if (find_field(object, "messages") != nullptr) {
    ChatRequest chat;
    TRY_DO(read_conversation(object, limits, chat));
    request.add_special_tokens = chat.add_special_tokens;
    request.input = std::move(chat);
    return request;
  }
  TRY(auto prompt, read_text(object, "prompt", limits.body_bytes_max));
  if (!prompt) return fail(Code::kInvalid, "prompt: missing, expected text, or messages", "prompt");
  TRY(const auto special, read_switch(object, "add_special_tokens"));
  request.add_special_tokens = special.value_or(true);
  request.input = std::move(*prompt);
  return request;
}

Result<DetokenizeRequest> parse_detokenize_request(std::string_view body, const RequestLimits& limits) {
  TRY(const json::object object, parse_json_object(body, limits.body_bytes_max));
  DetokenizeRequest request;
  TRY(auto model, read_text(object, "model", kNameBytesMax));
  request.model = std::move(model).value_or("");
  const json::value* tokens = find_field(object, "tokens");
  if (tokens == nullptr)
    return fail(Code::kInvalid, "tokens: missing, expected a list of token ids", "tokens");
  TRY(request.tokens, read_token_ids(*tokens, "tokens", kPromptTokensMax, limits.vocab_size));
  return request;
}

Result<std::vector<std::string>> parse_abort_request(std::string_view body) {
  TRY(const json::object object, parse_json_object(body, kAbortBytesMax));
  const json::value* value = find_field(object, "request_id");
  if (value == nullptr)
    return fail(Code::kInvalid, "request_id: missing, expected a name or names", "request_id");
  std::vector<std::string> ids;
  if (value->is_string()) ids.emplace_back(value->get_string());
  if (value->is_array()) {
    for (const json::value& entry : value->get_array()) {
      if (!entry.is_string()) return refuse_field("request_id", *value, "a name or a list of names");
      ids.emplace_back(entry.get_string());
    }
  }
  if (ids.empty()) return refuse_field("request_id", *value, "a name or a list of names, not empty");
  return ids;
}

Sampling resolve(const SamplingFields& fields, const SamplingDefaults& defaults, int32_t room_tokens,
                 std::optional<int32_t> fallback_max_tokens) {
  const auto pick = [](auto asked, auto server, auto neutral) {
    if (asked) return *asked;
    return server ? *server : neutral;
  };
  Sampling sampling;
  sampling.temperature = pick(fields.temperature, defaults.temperature, 1.0F);
  sampling.top_p = pick(fields.top_p, defaults.top_p, 1.0F);
  sampling.min_p = pick(fields.min_p, defaults.min_p, 0.0F);
  sampling.repetition_penalty = pick(fields.repetition_penalty, defaults.repetition_penalty, 1.0F);
  sampling.top_k = std::max(pick(fields.top_k, defaults.top_k, int32_t{0}), int32_t{0});
  const auto asked = fields.max_tokens ? fields.max_tokens : fallback_max_tokens;
  sampling.max_tokens = room_tokens;
  if (asked) sampling.max_tokens = std::min(sampling.max_tokens, *asked);
  if (defaults.max_new_tokens) sampling.max_tokens = std::min(sampling.max_tokens, *defaults.max_new_tokens);
  sampling.max_tokens = std::max(sampling.max_tokens, int32_t{0});
  return sampling;
}

}  // namespace baton::api
