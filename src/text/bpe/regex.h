// A compiled regular expression of tokenizer.json. Immutable: any number of threads may search with it at
// once; match data and the JIT's stack are thread-local.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::text::bpe {

// Bytes [begin, end) of some text.
struct Range {
  uint32_t begin;
  uint32_t end;
  bool operator==(const Range&) const = default;
};

constexpr size_t kPatternBytesMax = 16 << 10;
constexpr uint32_t kRegexStepsMax = 10'000'000;  // backtracks of one search
constexpr size_t kRegexStackBytesMax = size_t{1} << 20;

class Regex {
 public:
  // `pattern` in Oniguruma's syntax (bpe/pattern.h). kCorrupt with the place and the reason.
  static Result<Regex> compile(std::string_view pattern);

  // Appends the matches in `subject`, which is UTF-8, from left to right. An empty match right behind another
  // match does not count. kExhausted when one search passes kRegexStepsMax or kRegexStackBytesMax.
  Result<void> find_all(std::string_view subject, std::vector<Range>& matches) const;

 private:
  struct Program;
  struct ProgramDeleter {
    void operator()(Program* program) const;
  };
  explicit Regex(std::unique_ptr<Program, ProgramDeleter> program) : program_(std::move(program)) {}

  std::unique_ptr<Program, ProgramDeleter> program_;
};

}  // namespace baton::text::bpe
