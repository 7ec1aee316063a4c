#include "text/bpe/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <limits>

#include "base/check.h"
#include "text/bpe/pattern.h"

namespace baton::text::bpe {

struct Regex::Program {
  pcre2_code* compiled;
  bool jit;
};

void Regex::ProgramDeleter::operator()(Program* program) const {
  pcre2_code_free(program->compiled);
  delete program;
}

namespace {

struct Free {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};

// What a search writes; one per thread.
struct MatchScratch {
  std::unique_ptr<pcre2_match_data, Free> data{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_jit_stack, Free> stack{
      pcre2_jit_stack_create(32 << 10, kRegexStackBytesMax, nullptr)};
  std::unique_ptr<pcre2_match_context, Free> context{pcre2_match_context_create(nullptr)};

  MatchScratch() {
    CHECK(data && stack && context, "out of memory");
    pcre2_set_match_limit(context.get(), kRegexStepsMax);
    pcre2_set_heap_limit(context.get(), kRegexStackBytesMax / 1024);
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

MatchScratch& match_scratch() {
  thread_local MatchScratch scratch;
  return scratch;
}

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(error, buffer.data(), buffer.size());
  return std::string(reinterpret_cast<const char*>(buffer.data()));
}

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

size_t character_bytes(unsigned char lead) { return lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

}  // namespace

Result<Regex> Regex::compile(std::string_view pattern) {
  if (pattern.size() > kPatternBytesMax) {
    return fail(Code::kCorrupt,
                fmt::format("pattern of {} bytes, expected at most {}", pattern.size(), kPatternBytesMax));
  }
  TRY(const std::string translated, pcre2_pattern(pattern));
  const std::unique_ptr<pcre2_compile_context, Free> context(pcre2_compile_context_create(nullptr));
  CHECK(context, "out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  size_t place = 0;
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  pcre2_code* compiled =
      pcre2_compile(units(translated), translated.size(), options, &error, &place, context.get());
  if (compiled == nullptr) {
    return fail(Code::kCorrupt, fmt::format("{} at byte {} of {}", message_of(error), place, translated));
  }
  // Without JIT (no executable memory, for example) the interpreter gives the same matches.
  const bool jit = pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE) == 0;
  return Regex(std::unique_ptr<Program, ProgramDeleter>(new Program{compiled, jit}));
}

Result<void> Regex::find_all(std::string_view subject, std::vector<Range>& matches) const {
  CHECK(subject.size() <= std::numeric_limits<uint32_t>::max());
  MatchScratch& scratch = match_scratch();
  const size_t* found = pcre2_get_ovector_pointer(scratch.data.get());
  const auto search = program_->jit ? pcre2_jit_match : pcre2_match;
  size_t from = 0;
  size_t last_end = std::numeric_limits<size_t>::max();
  while (from <= subject.size()) {
    const int rc = search(program_->compiled, units(subject), subject.size(), from, PCRE2_NO_UTF_CHECK,
                          scratch.data.get(), scratch.context.get());
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) return fail(Code::kExhausted, fmt::format("regex: {} at byte {}", message_of(rc), from));
    const size_t begin = found[0];
    const size_t end = found[1];
    if (begin == end && end == last_end) {
      if (from == subject.size()) break;
      from += character_bytes(static_cast<unsigned char>(subject[from]));
      continue;
    }
    matches.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
    from = end;
    last_end = end;
  }
  return {};
}

}  // namespace baton::text::bpe
