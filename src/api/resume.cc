#include "api/resume.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

#include "api/fields.h"
#include "api/json.h"

namespace baton::api {
namespace {

constexpr std::string_view kReturned = "returned";
constexpr int32_t kAnyVocabulary = std::numeric_limits<int32_t>::max();
constexpr int64_t kCreatedMax = int64_t{1} << 53;

Failure refuse(std::string_view what, std::string_view expectation) {
  return fail(Code::kInvalid, fmt::format("{}.{}, expected {}", kResumeField, what, expectation),
              std::string(kResumeField));
}

// An error of a field inside, with the whole object's name in front.
Failure inside(Error error) {
  if (!error.message.starts_with(kResumeField))
    error.message = fmt::format("{}.{}", kResumeField, error.message);
  error.param = std::string(kResumeField);
  return Failure(std::move(error));
}

void append_ids(std::string& out, const std::vector<TokenId>& ids) {
  out += '[';
  for (const TokenId id : ids) {
    if (out.back() != '[') out += ',';
    append_json_integer(out, id);
  }
  out += ']';
}

void append_head(std::string& out, const ResumeHead& head) {
  out += "\"head\":{\"id\":";
  append_json_string(out, head.id);
  out += fmt::format(",\"created\":{},\"seed\":{},\"cached_tokens\":{},\"digest\":\"{:016x}\"{}}}",
                     head.created, head.seed, head.cached_tokens, head.digest,
                     head.handed_over ? ",\"handed_over\":true" : "");
}

Result<uint64_t> read_digest(const json::object& object) {
  const json::value* value = find_field(object, "digest");
  uint64_t digest = 0;
  if (value != nullptr && value->is_string() && value->get_string().size() == 16) {
    const std::string_view text = value->get_string();
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), digest, 16);
    if (error == std::errc{} && end == text.data() + text.size()) return digest;
  }
  return refuse("head.digest", "16 hexadecimal digits");
}

Result<uint64_t> read_seed(const json::object& object) {
  const json::value* value = find_field(object, "seed");
  if (value != nullptr && value->is_uint64()) return value->get_uint64();
  if (value != nullptr && value->is_int64() && value->get_int64() >= 0)
    return static_cast<uint64_t>(value->get_int64());
  return refuse("head.seed", "an integer from 0 to 2^64 - 1");
}

Result<ResumeHead> read_head(const json::value& value) {
  if (!value.is_object()) return refuse("head", "an object");
  const json::object& object = value.get_object();
  ResumeHead head;
  TRY(auto id, read_text(object, "id", kResumeChunkIdBytesMax));
  if (!id || id->empty()) return refuse("head.id", "the id of the answer's chunks");
  head.id = std::move(*id);
  TRY(const auto created, read_integer(object, "created", 0, kCreatedMax));
  head.created = created.value_or(0);
  TRY(head.seed, read_seed(object));
  TRY(const auto cached, read_integer(object, "cached_tokens", 0, static_cast<int64_t>(kPromptTokensMax)));
  head.cached_tokens = cached.value_or(0);
  TRY(head.digest, read_digest(object));
  TRY(const auto handed_over, read_switch(object, "handed_over"));
  head.handed_over = handed_over.value_or(false);
  return head;
}

// The entries of `choices`, which may be absent.
Result<const json::array*> read_choices(const json::object& object) {
  static const json::array none;
  const json::value* choices = find_field(object, "choices");
  if (choices == nullptr) return &none;
  if (!choices->is_array() || choices->get_array().size() > kChoicesMax)
    return refuse("choices", fmt::format("a list of at most {} objects", kChoicesMax));
  for (const json::value& entry : choices->get_array()) {
    if (!entry.is_object()) return refuse("choices", "a list of objects");
  }
  return &choices->get_array();
}

Result<std::vector<TokenId>> read_ids(const json::object& object, std::string_view key, size_t number,
                                      int32_t vocab_size) {
  const json::value* value = find_field(object, key);
  if (value == nullptr) return std::vector<TokenId>{};
  return read_token_ids(*value, fmt::format("{}.choices[{}].{}", kResumeField, number, key), kResumeIdsMax,
                        vocab_size);
}

Result<NotedChoice> read_noted(const json::object& object, size_t number) {
  NotedChoice choice;
  TRY(const auto index, read_integer(object, "index", 0, kChoicesMax - 1));
  if (!index) return refuse("choices.index", "the number of a choice");
  choice.index = static_cast<int32_t>(*index);
  TRY(choice.ids, read_ids(object, "ids", number, kAnyVocabulary));
  TRY(const auto finished, read_switch(object, "finished"));
  choice.finished = finished.value_or(false);
  return choice;
}

Result<ResumeNote> read_note(std::string_view text) {
  TRY(const json::object object, parse_json_object(text, kResumeNoteBytesMax));
  ResumeNote note;
  if (const json::value* head = find_field(object, "head")) {
    TRY(note.head, read_head(*head));
  }
  TRY(const json::array* choices, read_choices(object));
  size_t ids = 0;
  for (const json::value& entry : *choices) {
    TRY(NotedChoice choice, read_noted(entry.get_object(), note.choices.size()));
    ids += choice.ids.size();
    note.choices.push_back(std::move(choice));
  }
  if (ids > kResumeIdsMax) return refuse("choices", fmt::format("at most {} token ids", kResumeIdsMax));
  return note;
}

Result<Resumption> read_resumption(const json::value& value, int32_t vocab_size) {
  if (!value.is_object()) return refuse_field(kResumeField, value, "an object");
  const json::object& object = value.get_object();
  Resumption resumption;
  const json::value* head = find_field(object, "head");
  if (head == nullptr) return refuse("head", "the head of the answer's first note");
  TRY(resumption.head, read_head(*head));
  TRY(const json::array* choices, read_choices(object));
  for (const json::value& entry : *choices) {
    const json::object& of = entry.get_object();
    ResumedChoice choice;
    TRY(choice.token_ids, read_ids(of, "token_ids", resumption.choices.size(), vocab_size));
    TRY(const auto begun, read_switch(of, "begun"));
    TRY(const auto finished, read_switch(of, "finished"));
    choice.finished = finished.value_or(false);
    choice.begun = begun.value_or(false) || choice.finished || !choice.token_ids.empty();
    resumption.choices.push_back(std::move(choice));
  }
  TRY(const auto usage_sent, read_switch(object, "usage_sent"));
  resumption.usage_sent = usage_sent.value_or(false);
  if (count_ids(resumption) > kResumeIdsMax)
    return refuse("choices", fmt::format("at most {} token ids", kResumeIdsMax));
  return resumption;
}

}  // namespace

void append_resume_note(std::string& out, const ResumeNote& note) {
  out += kResumeNotePrefix;
  if (note.returned) {
    out += kReturned;
    out += '\n';
    return;
  }
  out += '{';
  if (note.head) {
    append_head(out, *note.head);
    out += ',';
  }
  out += "\"choices\":[";
  for (const NotedChoice& choice : note.choices) {
    if (out.back() != '[') out += ',';
    out += "{\"index\":";
    append_json_integer(out, choice.index);
    out += ",\"ids\":";
    append_ids(out, choice.ids);
    if (choice.finished) out += ",\"finished\":true";
    out += '}';
  }
  out += "]}\n";
}

Result<ResumeNote> parse_resume_note(std::string_view line) {
  if (!line.starts_with(kResumeNotePrefix))
    return refuse("note", fmt::format("a line that begins with \"{}\"", kResumeNotePrefix));
  const std::string_view text = line.substr(kResumeNotePrefix.size());
  if (text == kReturned) return ResumeNote{.head = {}, .choices = {}, .returned = true};
  auto note = read_note(text);
  if (!note) return inside(std::move(note).error());
  return note;
}

Result<void> add_note(std::optional<Resumption>& sum, const ResumeNote& note) {
  if (note.returned) return {};
  if (note.head.has_value() == sum.has_value())
    return refuse("head", sum ? "none behind the first note" : "the first note to have one");
  Resumption next = sum ? std::move(*sum) : Resumption{.head = *note.head, .choices = {}};
  sum.reset();
  next.usage_sent = next.usage_sent || note.choices.empty();
  for (const NotedChoice& noted : note.choices) {
    const auto index = static_cast<size_t>(noted.index);
    if (index >= kChoicesMax) return refuse("choices.index", fmt::format("less than {}", kChoicesMax));
    if (index >= next.choices.size()) next.choices.resize(index + 1);
    ResumedChoice& choice = next.choices[index];
    if (choice.finished) return refuse(fmt::format("choices[{}]: goes on", index), "nothing behind its end");
    choice.token_ids.insert(choice.token_ids.end(), noted.ids.begin(), noted.ids.end());
    choice.begun = true;
    choice.finished = noted.finished;
  }
  if (const size_t ids = count_ids(next); ids > kResumeIdsMax) {
    return fail(Code::kExhausted, fmt::format("{}.choices: {} token ids, expected at most {}", kResumeField,
                                              ids, kResumeIdsMax));
  }
  sum = std::move(next);
  return {};
}

size_t count_ids(const Resumption& resumption) {
  size_t ids = 0;
  for (const ResumedChoice& choice : resumption.choices) ids += choice.token_ids.size();
  return ids;
}

std::string render_resumption(const Resumption& resumption) {
  std::string out = "{";
  append_head(out, resumption.head);
  out += ",\"choices\":[";
  for (const ResumedChoice& choice : resumption.choices) {
    if (out.back() != '[') out += ',';
    out += "{\"token_ids\":";
    append_ids(out, choice.token_ids);
    out += choice.begun ? ",\"begun\":true" : ",\"begun\":false";
    out += choice.finished ? ",\"finished\":true}" : ",\"finished\":false}";
  }
  out += resumption.usage_sent ? "],\"usage_sent\":true}" : "],\"usage_sent\":false}";
  return out;
}

Result<Resumption> parse_resumption(std::string_view json, int32_t vocab_size) {
  TRY(const json::value value, parse_json(json, kBodyBytesMax));
  return parse_resumption(value, vocab_size);
}

Result<Resumption> parse_resumption(const json::value& value, int32_t vocab_size) {
  auto resumption = read_resumption(value, vocab_size);
  if (!resumption) return inside(std::move(resumption).error());
  return resumption;
}

}  // namespace baton::api
