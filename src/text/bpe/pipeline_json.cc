#include "text/bpe/pipeline_json.h"

#include "text/bpe/json_field.h"
#include "text/bpe/model_json.h"
#include "text/bpe/pattern.h"
#include "text/bpe/tokenizer_parts.h"

namespace baton::text::bpe {

namespace {

constexpr size_t kStagesMax = 32;
constexpr size_t kSpecialAroundMax = 64;

// The leaves of `stage`, which is one or, by type Sequence with its parts in `list`, several. Nests at most
// as deep as the JSON parser allows.
Result<void> flatten(const Field& stage, std::string_view list, std::vector<Field>& leaves) {
  TRY(const Field type, stage.required("type"));
  TRY(const std::string_view name, type.string());
  if (name != "Sequence") {
    if (leaves.size() == kStagesMax)
      return stage.problem(fmt::format("expected at most {} stages", kStagesMax));
    leaves.push_back(stage);
    return {};
  }
  TRY(const Field parts, stage.required(list));
  TRY(const simdjson::dom::array elements, parts.array());
  size_t index = 0;
  for (const simdjson::dom::element element : elements) {
    TRY_DO(flatten(parts.element(element, index++), list, leaves));
  }
  return {};
}

Result<std::vector<Field>> stages(const Field& file, std::string_view name, std::string_view list) {
  std::vector<Field> leaves;
  if (const auto stage = file.member(name); stage) TRY_DO(flatten(*stage, list, leaves));
  return leaves;
}

Result<std::string_view> type_of(const Field& stage) {
  TRY(const Field type, stage.required("type"));
  return type.string();
}

Result<Regex> read_pattern(const Field& field) {
  std::string source;
  const auto regex = field.member("Regex");
  const auto literal = field.member("String");
  if (regex) {
    TRY(source, regex->string());
  } else if (literal) {
    TRY(const std::string_view text, literal->string());
    source = literal_pattern(text);
  }
  if (source.empty()) return field.wrong(R"({"Regex": "..."} or {"String": "..."})");
  auto compiled = Regex::compile(source);
  if (!compiled) return field.problem(compiled.error().message);
  return compiled;
}

Result<SplitBehavior> read_behavior(const Field& field) {
  TRY(const std::string_view name, field.string());
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return field.wrong("Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
}

Result<SplitStep> read_split(const Field& stage) {
  TRY(const Field pattern, stage.required("pattern"));
  TRY(Regex regex, read_pattern(pattern));
  TRY(const Field behavior_field, stage.required("behavior"));
  TRY(const SplitBehavior behavior, read_behavior(behavior_field));
  TRY(const bool invert, stage.flag("invert", false));
  return SplitStep{std::move(regex), behavior, invert};
}

Result<SplitStep> read_digits(const Field& stage) {
  TRY(const bool individual, stage.flag("individual_digits", false));
  auto regex = Regex::compile(R"(\p{N})");
  if (!regex) return stage.problem(regex.error().message);
  return SplitStep{*std::move(regex), individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous};
}

Result<void> read_byte_level(const Field& stage, PreTokenizer& pre_tokenizer) {
  TRY(pre_tokenizer.add_prefix_space, stage.flag("add_prefix_space", true));
  TRY(const bool use_regex, stage.flag("use_regex", true));
  if (!use_regex) return {};
  auto regex = Regex::compile(kByteLevelPattern);
  if (!regex) return stage.problem(regex.error().message);
  pre_tokenizer.byte_level = SplitStep{*std::move(regex)};
  return {};
}

// The ids of one element of a TemplateProcessing: {"SpecialToken": {"id": "<s>"}} looked up in
// `special_tokens`.
Result<void> read_special(const Field& special, const Field& stage, TokenizerParts& parts,
                          std::vector<TokenId>& ids) {
  TRY(const Field name_field, special.required("id"));
  TRY(const std::string_view name, name_field.string());
  TRY(const Field table, stage.required("special_tokens"));
  TRY(const Field token, table.required(name));
  TRY(const Field list, token.required("ids"));
  TRY(const simdjson::dom::array elements, list.array());
  size_t index = 0;
  for (const simdjson::dom::element element : elements) {
    const Field field = list.element(element, index++);
    TRY(const int64_t id, read_id(field));
    if (!parts.vocabulary.has(static_cast<TokenId>(id))) return field.wrong("the id of a token");
    if (ids.size() == kSpecialAroundMax) {
      return list.problem(fmt::format("expected at most {} special tokens", kSpecialAroundMax));
    }
    ids.push_back(static_cast<TokenId>(id));
  }
  return {};
}

// Wraps what the stages before this one left into the template's special tokens.
Result<void> read_template(const Field& stage, TokenizerParts& parts) {
  TRY(const Field single, stage.required("single"));
  TRY(const simdjson::dom::array elements, single.array());
  std::vector<TokenId> before;
  std::vector<TokenId> behind;
  size_t texts = 0;
  size_t index = 0;
  for (const simdjson::dom::element element : elements) {
    const Field piece = single.element(element, index++);
    if (const auto special = piece.member("SpecialToken"); special) {
      TRY_DO(read_special(*special, stage, parts, texts == 0 ? before : behind));
    } else if (piece.member("Sequence")) {
      ++texts;
    } else {
      return piece.wrong("a SpecialToken or a Sequence");
    }
  }
  if (texts != 1) return single.problem(fmt::format("{} sequences, expected 1", texts));
  parts.prefix.insert(parts.prefix.begin(), before.begin(), before.end());
  parts.suffix.insert(parts.suffix.end(), behind.begin(), behind.end());
  return {};
}

}  // namespace

Result<void> read_normalizer(const Field& file, TokenizerParts& parts) {
  TRY(const std::vector<Field> leaves, stages(file, "normalizer", "normalizers"));
  for (const Field& stage : leaves) {
    TRY(const std::string_view type, type_of(stage));
    if (type == "NFC") {
      parts.normalizer.forms.push_back(NormalForm::kNfc);
    } else if (type == "NFD") {
      parts.normalizer.forms.push_back(NormalForm::kNfd);
    } else if (type == "NFKC") {
      parts.normalizer.forms.push_back(NormalForm::kNfkc);
    } else if (type == "NFKD") {
      parts.normalizer.forms.push_back(NormalForm::kNfkd);
    } else {
      return stage.required("type")->wrong("NFC, NFD, NFKC, NFKD or Sequence");
    }
  }
  return {};
}

Result<void> read_pre_tokenizer(const Field& file, TokenizerParts& parts) {
  TRY(const std::vector<Field> leaves, stages(file, "pre_tokenizer", "pretokenizers"));
  for (size_t i = 0; i < leaves.size(); ++i) {
    const Field& stage = leaves[i];
    TRY(const std::string_view type, type_of(stage));
    const bool last = i + 1 == leaves.size();
    if (type == "ByteLevel" && last) {
      return read_byte_level(stage, parts.pre_tokenizer);
    } else if (type == "Split" && !last) {
      TRY(SplitStep step, read_split(stage));
      parts.pre_tokenizer.steps.push_back(std::move(step));
    } else if (type == "Digits" && !last) {
      TRY(SplitStep step, read_digits(stage));
      parts.pre_tokenizer.steps.push_back(std::move(step));
    } else {
      return stage.required("type")->wrong(last ? "ByteLevel, which must be the last"
                                                : "Split, Digits or Sequence");
    }
  }
  return fail(Code::kCorrupt, "tokenizer.json: pre_tokenizer: missing, expected one that ends in ByteLevel");
}

Result<void> read_post_processor(const Field& file, TokenizerParts& parts) {
  TRY(const std::vector<Field> leaves, stages(file, "post_processor", "processors"));
  for (const Field& stage : leaves) {
    TRY(const std::string_view type, type_of(stage));
    if (type == "ByteLevel") continue;  // concerns offsets only
    if (type != "TemplateProcessing") {
      return stage.required("type")->wrong("TemplateProcessing, ByteLevel or Sequence");
    }
    TRY_DO(read_template(stage, parts));
  }
  return {};
}

Result<void> check_decoder(const Field& file) {
  TRY(const std::vector<Field> leaves, stages(file, "decoder", "decoders"));
  if (leaves.size() != 1)
    return file.problem(fmt::format("decoder: {} stages, expected ByteLevel", leaves.size()));
  TRY(const std::string_view type, type_of(leaves[0]));
  if (type != "ByteLevel") return leaves[0].required("type")->wrong("ByteLevel");
  return {};
}

}  // namespace baton::text::bpe
