#include "text/bpe/model_json.h"

#include <algorithm>

#include "text/bpe/byte_alphabet.h"
#include "text/bpe/json_field.h"
#include "text/bpe/tokenizer_parts.h"
#include "text/utf8.h"

namespace baton::text::bpe {

namespace {

constexpr size_t kTokenBytesMax = 1 << 16;

// Options of BPE that would change its result and have no part in byte-level models.
Result<void> refuse_other_kinds(const Field& model) {
  if (const auto type = model.member("type"); type) {
    TRY(const std::string_view name, type->string());
    if (name != "BPE") return type->wrong("\"BPE\"");
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto affix = model.member(name);
    if (!affix) continue;
    TRY(const std::string_view text, affix->string());
    if (!text.empty()) return affix->wrong("none");
  }
  TRY(const bool byte_fallback, model.flag("byte_fallback", false));
  if (byte_fallback) return model.required("byte_fallback")->wrong("false");
  if (const auto dropout = model.member("dropout"); dropout) {
    double value = 0;
    if (dropout->value().get(value) != simdjson::SUCCESS || value != 0) return dropout->wrong("none");
  }
  return {};
}

Result<void> read_vocabulary(const Field& field, TokenizerParts& parts) {
  TRY(const simdjson::dom::object entries, field.object());
  size_t count = 0;
  size_t bytes_total = 0;
  for (const auto entry : entries) {
    ++count;
    bytes_total += entry.key.size();
  }
  if (count > static_cast<size_t>(kTokenIdMax)) {
    return field.problem(fmt::format("{} entries, expected at most {}", count, kTokenIdMax));
  }
  parts.vocabulary.reserve(count + 1024, bytes_total);
  std::string bytes;
  for (const auto entry : entries) {
    int64_t id = 0;
    if (entry.value.get(id) != simdjson::SUCCESS || id < 0 || id > kTokenIdMax) {
      return Field(entry.value, field.place() + "." + std::string(entry.key))
          .wrong(fmt::format("an id from 0 to {}", kTokenIdMax));
    }
    const auto token = static_cast<TokenId>(id);
    if (entry.key.size() > kTokenBytesMax) return field.problem(fmt::format("id {}: token too long", id));
    if (parts.vocabulary.has(token)) {
      return field.problem(fmt::format("id {} of \"{}\" is already taken", id, entry.key));
    }
    bytes.clear();
    const bool spelled = append_spelled_bytes(bytes, entry.key);
    const bool added =
        spelled ? parts.vocabulary.add_spelled(token, bytes) : parts.raw_ids.emplace(entry.key, token).second;
    if (!added) return field.problem(fmt::format("\"{}\" is there twice", entry.key));
    if (!spelled) parts.vocabulary.add_raw(token, entry.key);
  }
  return {};
}

// The two symbols of a merge: ["a", "b"] as written since tokenizers 0.20, or "a b".
Result<std::array<std::string_view, 2>> read_symbols(const Field& merges, simdjson::dom::element value,
                                                     size_t index) {
  std::array<std::string_view, 2> symbols;
  size_t count = 0;
  std::string_view line;
  if (value.get(line) == simdjson::SUCCESS) {
    count = static_cast<size_t>(std::ranges::count(line, ' ')) + 1;
    const size_t space = line.find(' ');
    if (count == 2) symbols = {line.substr(0, space), line.substr(space + 1)};
  } else {
    simdjson::dom::array pair;
    if (value.get(pair) != simdjson::SUCCESS) return merges.element(value, index).wrong("a pair of symbols");
    for (const simdjson::dom::element symbol : pair) {
      std::string_view text;
      if (symbol.get(text) != simdjson::SUCCESS)
        return merges.element(value, index).wrong("a pair of strings");
      if (count < 2) symbols[count] = text;
      ++count;
    }
  }
  if (count != 2)
    return merges.element(value, index).problem(fmt::format("expected 2 symbols, got {}", count));
  return symbols;
}

Result<void> read_merges(const Field& field, TokenizerParts& parts) {
  TRY(const simdjson::dom::array merges, field.array());
  size_t count = 0;
  for (const simdjson::dom::element merge : merges) {
    static_cast<void>(merge);
    ++count;
  }
  parts.merges.reserve(count);
  std::string bytes;
  size_t index = 0;
  for (const simdjson::dom::element value : merges) {
    const size_t rank = index++;
    TRY(const auto symbols, read_symbols(field, value, rank));
    std::array<TokenId, 2> ids{};
    bool spelled = true;
    bytes.clear();
    for (size_t i = 0; i < 2; ++i) {
      const size_t before = bytes.size();
      if (append_spelled_bytes(bytes, symbols[i])) {
        ids[i] = parts.vocabulary.find(std::string_view(bytes).substr(before));
      } else {
        spelled = false;  // never meets spelled text, so this merge can never be made
        ids[i] = parts.id_of_spelled(symbols[i]);
      }
      if (ids[i] == kNoToken) {
        return field.element(value, rank)
            .problem(fmt::format("symbol \"{}\", expected a token of the vocabulary", symbols[i]));
      }
    }
    if (!spelled) continue;
    const TokenId merged = parts.vocabulary.find(bytes);
    if (merged == kNoToken) {
      return field.element(value, rank)
          .problem(fmt::format("\"{}{}\", expected a token of the vocabulary", symbols[0], symbols[1]));
    }
    parts.merges.add(ids[0], ids[1], {static_cast<uint32_t>(rank), merged});
  }
  return {};
}

// With every byte in the vocabulary nothing is ever unknown. Bytes that no UTF-8 text holds may be missing.
Result<void> require_bytes(const Field& vocabulary, const TokenizerParts& parts) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool in_text = byte < 0xC0 || (byte > 0xC1 && byte < 0xF5);
    if (!in_text || parts.vocabulary.of_byte(static_cast<uint8_t>(byte)) != kNoToken) continue;
    std::string spelling;
    append_utf8(spelling, spelling_of(static_cast<uint8_t>(byte)));
    return vocabulary.problem(
        fmt::format("byte {} (\"{}\") is missing, expected a token for each", byte, spelling));
  }
  return {};
}

}  // namespace

Result<void> read_model(const Field& model, TokenizerParts& parts) {
  TRY_DO(refuse_other_kinds(model));
  TRY(parts.ignore_merges, model.flag("ignore_merges", false));
  TRY(const Field vocabulary, model.required("vocab"));
  TRY_DO(read_vocabulary(vocabulary, parts));
  TRY_DO(require_bytes(vocabulary, parts));
  TRY(const Field merges, model.required("merges"));
  return read_merges(merges, parts);
}

Result<int64_t> read_id(const Field& field) {
  int64_t id = 0;
  if (field.value().get(id) != simdjson::SUCCESS || id < 0 || id > kTokenIdMax) {
    return field.wrong(fmt::format("an id from 0 to {}", kTokenIdMax));
  }
  return id;
}

Result<void> add_token(AddedToken token, std::string_view place, TokenizerParts& parts) {
  const auto wrong = [&](std::string problem) {
    return fail(Code::kCorrupt, fmt::format("{}: {}", place, problem));
  };
  const std::string& content = token.content;
  if (content.empty() || content.size() > kAddedTokenBytesMax) {
    return wrong(fmt::format("content of {} bytes, expected 1 to {}", content.size(), kAddedTokenBytesMax));
  }
  if (parts.added.size() == kAddedTokensMax) {
    return wrong(fmt::format("expected at most {} added tokens", kAddedTokensMax));
  }
  const TokenId known = parts.id_of_spelled(content);
  if (known != kNoToken && known != token.id) {
    return wrong(fmt::format("id {} of \"{}\", expected {} as in the vocabulary", token.id, content, known));
  }
  if (parts.added_ids.contains(content)) return wrong(fmt::format("\"{}\" is there twice", content));
  if (known == kNoToken) {
    if (parts.vocabulary.has(token.id)) {
      return wrong(fmt::format("id {} of \"{}\" is already taken", token.id, content));
    }
    std::string bytes;
    const bool spelled = append_spelled_bytes(bytes, content);
    parts.vocabulary.add_raw(token.id, spelled ? bytes : content);
  }
  parts.added_ids.emplace(content, token.id);
  parts.added.push_back(std::move(token));
  return {};
}

Result<void> read_added_tokens(const Field& file, TokenizerParts& parts) {
  const auto list = file.member("added_tokens");
  if (!list) return {};
  TRY(const simdjson::dom::array entries, list->array());
  size_t index = 0;
  for (const simdjson::dom::element element : entries) {
    const Field entry = list->element(element, index++);
    AddedToken token;
    TRY(const Field id, entry.required("id"));
    TRY(const int64_t number, read_id(id));
    token.id = static_cast<TokenId>(number);
    TRY(const Field content, entry.required("content"));
    TRY(token.content, content.string());
    TRY(token.special, entry.flag("special", false));
    TRY(token.normalized, entry.flag("normalized", !token.special));
    TRY(token.single_word, entry.flag("single_word", false));
    TRY(token.lstrip, entry.flag("lstrip", false));
    TRY(token.rstrip, entry.flag("rstrip", false));
    TRY_DO(add_token(std::move(token), entry.place(), parts));
  }
  return {};
}

Result<void> index_added_tokens(TokenizerParts& parts) {
  size_t bytes = 0;
  std::string scratch;
  for (const AddedToken& token : parts.added) {
    bytes += token.content.size();
    if (bytes > kAddedTokensBytesMax) {
      return fail(Code::kCorrupt,
                  fmt::format("tokenizer.json: added_tokens: expected at most {} bytes together",
                              kAddedTokensBytesMax));
    }
    if (token.special) {
      const auto at = static_cast<size_t>(token.id);
      if (at >= parts.special.size()) parts.special.resize(at + 1);
      parts.special[at] = true;
      if (parts.split_special_tokens) continue;
    }
    if (!token.normalized) {
      parts.before_normalizer.add(token.content, token);
      continue;
    }
    TRY(const std::string_view pattern, parts.normalizer.apply(token.content, scratch));
    if (!pattern.empty()) parts.after_normalizer.add(pattern, token);
  }
  return {};
}

}  // namespace baton::text::bpe
