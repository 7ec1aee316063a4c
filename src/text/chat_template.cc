#include "text/chat_template.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <fstream>

#include "text/jinja/unicode.h"

namespace baton::text {
namespace {

namespace json = boost::json;

constexpr uintmax_t kFileBytesMax = 64 << 20;
constexpr std::string_view kTokenNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                            "pad_token", "cls_token", "mask_token"};
// Marks the end of the message to be continued, as transformers does it: what a template strips from a
// message shows in the space behind the mark.
constexpr std::string_view kContinueMark = "CONTINUE_FINAL_MESSAGE_TAG ";

Result<std::string> read_file(const std::filesystem::path& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return fail(Code::kIo, fmt::format("{}: {}", path.string(), error.message()));
  if (size > kFileBytesMax) {
    return fail(Code::kCorrupt,
                fmt::format("{}: {} bytes, expected at most {}", path.string(), size, kFileBytesMax));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(size), '\0');
  file.read(text.data(), static_cast<std::streamsize>(size));
  if (static_cast<uintmax_t>(file.gcount()) != size) {
    return fail(Code::kIo, fmt::format("{}: expected {} bytes, read {}", path.string(), size, file.gcount()));
  }
  return text;
}

Result<json::object> read_json_object(const std::filesystem::path& path) {
  TRY(const std::string text, read_file(path));
  json::error_code error;
  json::value parsed = json::parse(text, error);
  if (error) return fail(Code::kCorrupt, fmt::format("{}: {}", path.string(), error.message()));
  if (!parsed.is_object()) return fail(Code::kCorrupt, fmt::format("{}: expected an object", path.string()));
  return std::move(parsed.as_object());
}

// A token is a string or an object with its "content".
const json::string* token_text(const json::value& value) {
  if (const json::string* text = value.if_string()) return text;
  const json::object* added = value.if_object();
  const json::value* content = added ? added->if_contains("content") : nullptr;
  return content ? content->if_string() : nullptr;
}

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

Failure in_file(Error error, std::string_view where) {
  error.message = fmt::format("{}: {}", where, error.message);
  return Failure(std::move(error));
}

// Appends the mark to the text that is to be continued.
Result<void> mark_final_message(json::array& messages) {
  json::object* last = messages.empty() ? nullptr : messages.back().if_object();
  json::value* content = last ? last->if_contains("content") : nullptr;
  json::string* text = content ? content->if_string() : nullptr;
  if (json::array* parts = content ? content->if_array() : nullptr) {
    for (size_t i = parts->size(); i-- > 0 && !text;) {
      json::object* part = (*parts)[i].if_object();
      json::value* inner = part ? part->if_contains("text") : nullptr;
      text = inner ? inner->if_string() : nullptr;
    }
  }
  if (!text) {
    return fail(Code::kInvalid, "continue_final_message: expected a last message with text to continue",
                "messages");
  }
  text->append(kContinueMark);
  return {};
}

Result<std::string> cut_at_mark(std::string rendered) {
  const std::string_view bare = kContinueMark.substr(0, kContinueMark.size() - 1);
  const size_t at = rendered.rfind(bare);
  if (at == std::string::npos) {
    return fail(
        Code::kInvalid,
        "continue_final_message: the chat template does not write the last message, so there is nothing to "
        "continue",
        "messages");
  }
  const bool keeps_space = std::string_view(rendered).substr(at).starts_with(kContinueMark);
  rendered.resize(at);
  if (!keeps_space) rendered.resize(jinja::strip(rendered, false, true).size());
  return rendered;
}

}  // namespace

json::object special_tokens_of(const json::object& config) {
  json::object tokens;
  for (const std::string_view name : kTokenNames) {
    const json::value* value = config.if_contains(name);
    const json::string* text = value ? token_text(*value) : nullptr;
    if (text) tokens[name] = *text;
  }
  if (const json::value* more = config.if_contains("additional_special_tokens"); more && more->is_array()) {
    json::array texts;
    for (const json::value& token : more->get_array()) {
      if (const json::string* text = token_text(token)) texts.push_back(*text);
    }
    tokens["additional_special_tokens"] = std::move(texts);
  }
  // Tokens with names of their own, as transformers 5 writes them: {"image_token": "<image>"}.
  if (const json::value* more = config.if_contains("extra_special_tokens"); more && more->is_object()) {
    for (const auto& [name, token] : more->get_object()) {
      if (const json::string* text = token_text(token)) tokens[name] = *text;
    }
  }
  return tokens;
}

Result<jinja::Value> template_value(const json::value& value, size_t depth) {
  if (depth > kJsonDepthMax) {
    return fail(Code::kInvalid, fmt::format("JSON nested more than {} deep", kJsonDepthMax));
  }
  switch (value.kind()) {
    case json::kind::null:
      return jinja::Value(jinja::None{});
    case json::kind::bool_:
      return jinja::Value(value.get_bool());
    case json::kind::int64:
      return jinja::Value::integer(value.get_int64());
    case json::kind::uint64:
      return jinja::Value(static_cast<jinja::Int>(value.get_uint64()));
    case json::kind::double_:
      return jinja::Value(value.get_double());
    case json::kind::string:
      return jinja::make_text(std::string(view(value.get_string())));
    case json::kind::array: {
      std::vector<jinja::Value> items;
      items.reserve(value.get_array().size());
      for (const json::value& element : value.get_array()) {
        TRY(jinja::Value item, template_value(element, depth + 1));
        items.push_back(std::move(item));
      }
      return jinja::make_list(std::move(items));
    }
    case json::kind::object: {
      std::vector<jinja::Dict::Entry> entries;
      entries.reserve(value.get_object().size());
      for (const auto& [key, element] : value.get_object()) {
        TRY(jinja::Value item, template_value(element, depth + 1));
        entries.emplace_back(jinja::Value::text(std::string(key)), std::move(item));
      }
      return jinja::make_dict(std::move(entries));
    }
  }
  return jinja::Value();
}

Result<ChatTemplate> ChatTemplate::compile(std::string_view source, json::object special_tokens,
                                           jinja::LocalTime local_time) {
  TRY(jinja::Template compiled, jinja::Template::compile(source, std::move(local_time)));
  ChatTemplate made(std::move(special_tokens));
  made.templates_.emplace("default", std::move(compiled));
  return made;
}

Result<ChatTemplate> ChatTemplate::load(const std::filesystem::path& model_dir, jinja::LocalTime local_time) {
  const std::filesystem::path config_path = model_dir / "tokenizer_config.json";
  const std::filesystem::path template_path = model_dir / "chat_template.jinja";
  json::object config;
  if (std::filesystem::exists(config_path)) {
    TRY(config, read_json_object(config_path));
  }
  if (std::filesystem::exists(template_path)) {
    TRY(const std::string source, read_file(template_path));
    Result<ChatTemplate> made = compile(source, special_tokens_of(config), std::move(local_time));
    if (!made) return in_file(std::move(made).error(), template_path.string());
    return made;
  }
  ChatTemplate made(special_tokens_of(config));
  const auto add = [&](std::string_view name, std::string_view source) -> Result<void> {
    Result<jinja::Template> compiled = jinja::Template::compile(source, local_time);
    if (!compiled) return in_file(std::move(compiled).error(), config_path.string());
    made.templates_.insert_or_assign(std::string(name), *std::move(compiled));
    return {};
  };
  const json::value* found = config.if_contains("chat_template");
  if (found && found->is_string()) TRY_DO(add("default", view(found->get_string())));
  if (found && found->is_array()) {
    for (const json::value& entry : found->get_array()) {
      const json::object* row = entry.if_object();
      const json::value* name = row ? row->if_contains("name") : nullptr;
      const json::value* source = row ? row->if_contains("template") : nullptr;
      if (!name || !name->is_string() || !source || !source->is_string()) {
        return fail(Code::kCorrupt, fmt::format("{}: chat_template: expected a list of {{name, template}}",
                                                config_path.string()));
      }
      TRY_DO(add(view(name->get_string()), view(source->get_string())));
    }
  }
  if (!made.templates_.empty()) return made;
  return fail(
      Code::kNotFound,
      fmt::format(
          "{}: the checkpoint has no chat template, expected chat_template.jinja or \"chat_template\" "
          "in tokenizer_config.json. Give one with --chat-template FILE, or send /v1/completions",
          model_dir.string()));
}

const jinja::Template* ChatTemplate::choose(bool with_tools) const {
  auto at = with_tools ? templates_.find("tool_use") : templates_.end();
  if (at == templates_.end()) at = templates_.find("default");
  return at == templates_.end() ? nullptr : &at->second;
}

Result<std::string> ChatTemplate::render(const RenderRequest& request) const {
  if (request.continue_final_message && request.add_generation_prompt) {
    return fail(Code::kInvalid,
                "continue_final_message: expected add_generation_prompt to be false beside it",
                "continue_final_message");
  }
  const bool with_tools = request.tools.is_array();
  const jinja::Template* chosen = choose(with_tools);
  if (!chosen) {
    return fail(Code::kInvalid, "the checkpoint has several chat templates, but none is named \"default\"",
                "messages");
  }
  std::vector<std::pair<std::string, jinja::Value>> variables;
  const auto add = [&](std::string_view name, const json::value& value) -> Result<void> {
    Result<jinja::Value> converted = template_value(value);
    if (!converted) return Failure(Error{Code::kInvalid, converted.error().message, std::string(name)});
    variables.emplace_back(std::string(name), *std::move(converted));
    return {};
  };
  json::array marked;
  if (request.continue_final_message) {
    marked = request.messages;
    TRY_DO(mark_final_message(marked));
  }
  variables.emplace_back("documents", jinja::Value(jinja::None{}));
  variables.emplace_back("add_generation_prompt", jinja::Value(request.add_generation_prompt));
  TRY_DO(add("tools", request.tools));
  for (const auto& [name, value] : special_tokens_) TRY_DO(add(name, value));
  for (const auto& [name, value] : request.kwargs) TRY_DO(add(name, value));
  TRY_DO(add("messages", request.continue_final_message ? json::value(std::move(marked))
                                                        : json::value(request.messages)));
  Result<std::string> rendered = chosen->render(variables);
  if (!rendered) {
    Error error = std::move(rendered).error();
    error.param = "messages";
    return Failure(std::move(error));
  }
  if (!request.continue_final_message) return rendered;
  return cut_at_mark(*std::move(rendered));
}

}  // namespace baton::text
