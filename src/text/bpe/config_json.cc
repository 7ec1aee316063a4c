#include "text/bpe/config_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>

#include "text/bpe/model_json.h"
#include "text/bpe/tokenizer_parts.h"

// Boost.JSON rather than simdjson: transformers writes "no limit" as an integer of 100 bits, which simdjson
// refuses.
namespace json = boost::json;

namespace baton::text::bpe {

namespace {

constexpr std::string_view kFile = "tokenizer_config.json";

Failure wrong(std::string_view path, std::string_view problem) {
  return fail(Code::kCorrupt, fmt::format("{}: {}: {}", kFile, path, problem));
}

std::string_view view(json::string_view text) { return {text.data(), text.size()}; }

// A member, or nullptr when it is missing or null.
const json::value* member(const json::object& object, std::string_view name) {
  const json::value* found = object.if_contains({name.data(), name.size()});
  return found == nullptr || found->is_null() ? nullptr : found;
}

Result<std::optional<bool>> flag(const json::object& object, std::string_view name) {
  const json::value* found = member(object, name);
  if (found == nullptr) return std::nullopt;
  if (!found->is_bool()) return wrong(name, "expected true or false");
  return found->get_bool();
}

// A token given as a string or as an AddedToken object.
Result<std::optional<std::string>> content_of(const json::value* token, std::string_view path) {
  if (token == nullptr) return std::nullopt;
  if (token->is_object()) token = member(token->get_object(), "content");
  if (token == nullptr || !token->is_string())
    return wrong(path, "expected a string or an object with \"content\"");
  return std::string(view(token->get_string()));
}

// added_tokens_decoder: {"151643": {"content": ...}}. It repeats those of tokenizer.json, which count;
// transformers adds the ones that are not there.
Result<void> read_added_tokens_decoder(const json::object& config, TokenizerParts& parts) {
  const json::value* table = member(config, "added_tokens_decoder");
  if (table == nullptr) return {};
  if (!table->is_object()) return wrong("added_tokens_decoder", "expected an object");
  for (const auto& [key, value] : table->get_object()) {
    const std::string path = fmt::format("added_tokens_decoder.{}", view(key));
    TRY(auto content, content_of(&value, path));
    if (!value.is_object()) return wrong(path, "expected an object");
    if (parts.added_ids.contains(*content)) continue;
    AddedToken token;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    if (error != std::errc() || end != key.data() + key.size() || token.id < 0 || token.id > kTokenIdMax) {
      return wrong(path, fmt::format("expected an id from 0 to {}", kTokenIdMax));
    }
    token.content = *std::move(content);
    const json::object& flags = value.get_object();
    TRY(const auto special, flag(flags, "special"));
    TRY(const auto normalized, flag(flags, "normalized"));
    TRY(const auto single_word, flag(flags, "single_word"));
    TRY(const auto lstrip, flag(flags, "lstrip"));
    TRY(const auto rstrip, flag(flags, "rstrip"));
    token.special = special.value_or(false);
    token.normalized = normalized.value_or(!token.special);
    token.single_word = single_word.value_or(false);
    token.lstrip = lstrip.value_or(false);
    token.rstrip = rstrip.value_or(false);
    TRY_DO(add_token(std::move(token), fmt::format("{}: {}", kFile, path), parts));
  }
  return {};
}

// An added token that the config names (bos_token, ...) is special, whatever its own flag says.
void make_special(TokenizerParts& parts, std::string_view content) {
  const auto token = std::ranges::find(parts.added, content, &AddedToken::content);
  if (token != parts.added.end()) token->special = true;
}

Result<std::optional<TokenId>> read_named_token(const json::object& config, std::string_view name,
                                                TokenizerParts& parts) {
  TRY(const auto content, content_of(member(config, name), name));
  if (!content) return std::nullopt;
  make_special(parts, *content);
  if (const auto added = parts.added_ids.find(*content); added != parts.added_ids.end()) return added->second;
  const TokenId id = parts.id_of_spelled(*content);
  if (id == kNoToken) return std::nullopt;
  return id;
}

// add_bos_token and add_eos_token decide where they are given, else the post-processor does. `around`: what
// stands before or behind a text, `front` which of the two.
Result<void> read_add_token(const json::object& config, std::string_view name, std::optional<TokenId> id,
                            std::vector<TokenId>& around, bool front) {
  TRY(const auto add, flag(config, name));
  if (!add) return {};
  if (*add && !id) return wrong(name, "true, expected false or a token of that name in the vocabulary");
  const bool there = !around.empty() && (front ? around.front() : around.back()) == id;
  if (*add && !there) around.insert(front ? around.begin() : around.end(), *id);
  if (!*add && there) around.erase(front ? around.begin() : around.end() - 1);
  return {};
}

Result<void> read_members(const json::object& config, TokenizerParts& parts) {
  TRY_DO(read_added_tokens_decoder(config, parts));
  TRY(parts.bos, read_named_token(config, "bos_token", parts));
  TRY(parts.eos, read_named_token(config, "eos_token", parts));
  for (const char* name : {"unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}) {
    TRY_DO(read_named_token(config, name, parts));
  }
  const json::value* list = member(config, "additional_special_tokens");
  if (list != nullptr && !list->is_array()) return wrong("additional_special_tokens", "expected an array");
  if (list != nullptr) {
    for (const json::value& token : list->get_array()) {
      TRY(const auto content, content_of(&token, "additional_special_tokens"));
      make_special(parts, *content);
    }
  }
  TRY(const auto split_special_tokens, flag(config, "split_special_tokens"));
  parts.split_special_tokens = split_special_tokens.value_or(false);
  TRY_DO(read_add_token(config, "add_bos_token", parts.bos, parts.prefix, true));
  return read_add_token(config, "add_eos_token", parts.eos, parts.suffix, false);
}

}  // namespace

Result<void> read_config(std::string_view config_json, TokenizerParts& parts) {
  json::error_code error;
  json::parse_options options;
  options.max_depth = 64;
  const json::value config = json::parse({config_json.data(), config_json.size()}, error, {}, options);
  if (error) return fail(Code::kCorrupt, fmt::format("{}: {}", kFile, error.message()));
  if (!config.is_object()) return fail(Code::kCorrupt, fmt::format("{}: expected an object", kFile));
  return read_members(config.get_object(), parts);
}

}  // namespace baton::text::bpe
