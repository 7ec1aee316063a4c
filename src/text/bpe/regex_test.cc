#include "text/bpe/regex.h"

#include <gtest/gtest.h>

#include "text/bpe/pattern.h"
#include "text/bpe/pre_tokenizer.h"

namespace baton::text::bpe {
namespace {

using Texts = std::vector<std::string>;

Texts texts_of(std::string_view subject, const std::vector<Range>& ranges) {
  Texts texts;
  for (const Range range : ranges) texts.emplace_back(subject.substr(range.begin, range.end - range.begin));
  return texts;
}

Texts matches(std::string_view pattern, std::string_view subject) {
  const auto regex = Regex::compile(pattern);
  if (!regex) return {"error: " + regex.error().message};
  std::vector<Range> ranges;
  const auto done = regex->find_all(subject, ranges);
  if (!done) return {"error: " + done.error().message};
  return texts_of(subject, ranges);
}

TEST(Regex, MeansWhatOnigurumaMeans) {
  const struct {
    const char* pattern;
    std::string subject;
    Texts expected;
  } rows[] = {
      {R"(\s)",
       "a\xE1\xA0\x8E"
       "b\xC2\x85",
       {"\xC2\x85"}},  // U+180E is no white space, U+0085 is
      {R"(\S+)",
       "a\xE1\xA0\x8E"
       "b c",
       {"a\xE1\xA0\x8E"
        "b",
        "c"}},
      {R"([^\S\n]+)", "a \t\n b", {" \t", " "}},
      {R"(\w+)",
       "e\xCC\x81_1\xE2\x80\xBF!\xC2\xB2",
       {"e\xCC\x81_1\xE2\x80\xBF"}},  // marks and U+203F; not U+00B2
      {R"(\W)", "a\xC2\xB2", {"\xC2\xB2"}},
      {R"(\p{Han}+)",
       "\xE4\xB8\x80\xE3\x80\x81\xE4\xB8\x80",
       {"\xE4\xB8\x80", "\xE4\xB8\x80"}},  // U+3001 is Common
      {R"(\p{^L}+)", "ab12", {"12"}},
      {R"(a{,2})", "aaa", {"aa", "a"}},
      {R"(a{x})", "a{x}", {"a{x}"}},
      {R"(\u0041\x{42}\x43)", "ABC", {"ABC"}},
      {R"(^.)", "a\nb", {"a", "b"}},
      {R"(.$)", "a\nb", {"a", "b"}},
      {R"((?i)abc)", "aBC", {"aBC"}},
      {R"((?i:'s|'t))", "'S'\xC5\xBF", {"'S", "'\xC5\xBF"}},  // U+017F folds to s
      {R"(\d+)", "1\xD9\xA1x", {"1\xD9\xA1"}},
      {R"(x*)", "axxb", {"", "xx", ""}},
      {R"((?<=a)b|c(?=d)|(?<!e)f)", "abcdef", {"b", "c"}},
      {R"([[:alpha:]])", "a", {"error: at byte 1: [: is not supported"}},
      {R"([a&&b])", "a", {"error: at byte 2: && is not supported"}},
      {R"(\h)", "a", {R"(error: at byte 0: \h is not supported)"}},
      {R"((a)\1)", "a", {R"(error: at byte 3: \1 is not supported)"}},
      {R"((?m:a))", "a", {"error: at byte 0: (?m is not supported"}},
      {R"(a{2}+)", "a", {"error: at byte 1: {2}+ is not supported"}},
      {R"(\xE4)", "a", {R"(error: at byte 0: \xE4 is not supported)"}},
      {R"([a)", "a", {"error: at byte 2: expected ]"}},
      {R"(a\)", "a", {"error: at byte 2: expected a character"}},
      {R"((a)", "a", {"error: missing closing parenthesis at byte 2 of (a"}},
      {R"(\p{Klingon})", "a", {R"(error: unknown property after \P or \p at byte 14 of \p{sc:Klingon})"}},
  };
  for (const auto& row : rows) EXPECT_EQ(matches(row.pattern, row.subject), row.expected) << row.pattern;
}

TEST(Regex, StopsAtTheStepLimitWithAnError) {
  const Texts found = matches("(?:a+)+b|(?:a+a+)+c", std::string(40, 'a'));
  ASSERT_EQ(found.size(), 1U);
  EXPECT_TRUE(found[0].starts_with("error: regex: match limit exceeded")) << found[0];
}

TEST(Regex, ManyBlanksDoNotReachTheLimit) {
  const std::string blanks(size_t{2} << 20, ' ');
  EXPECT_EQ(matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", blanks), Texts{blanks});
}

TEST(Regex, LiteralsAreQuoted) {
  for (const std::string text : {"a.b", "[x]", "(?i)", "\\d", "{2}", " - ", "\xC3\xA9|^$", "a\nb"}) {
    EXPECT_EQ(matches(literal_pattern(text), "_" + text + "_"), Texts{text});
  }
}

TEST(SplitStep, TreatsMatchesByItsBehavior) {
  const struct {
    SplitBehavior behavior;
    bool invert;
    Texts expected;
  } rows[] = {
      // The examples of Hugging Face's documentation of SplitDelimiterBehavior: "the-final--countdown".
      {SplitBehavior::kIsolated, false, {"the", "-", "final", "-", "-", "countdown"}},
      {SplitBehavior::kRemoved, false, {"the", "final", "countdown"}},
      {SplitBehavior::kMergedWithPrevious, false, {"the-", "final-", "-", "countdown"}},
      {SplitBehavior::kMergedWithNext, false, {"the", "-final", "-", "-countdown"}},
      {SplitBehavior::kContiguous, false, {"the", "-", "final", "--", "countdown"}},
      {SplitBehavior::kRemoved, true, {"-", "-", "-"}},
      {SplitBehavior::kIsolated, true, {"the", "-", "final", "-", "-", "countdown"}},
  };
  for (const auto& row : rows) {
    const SplitStep step{Regex::compile("-").value(), row.behavior, row.invert};
    const std::string_view text = "[the-final--countdown]";
    std::vector<Range> scratch;
    std::vector<Range> pieces;
    ASSERT_TRUE(step.split(text, {1, 21}, scratch, pieces).has_value());
    EXPECT_EQ(texts_of(text, pieces), row.expected) << static_cast<int>(row.behavior);
  }
}

TEST(SplitStep, ShowsTheRegexNothingOutsideThePiece) {
  const SplitStep step{Regex::compile(R"((?<!a)b|c(?!d))").value()};
  const std::string_view text = "abcd";
  std::vector<Range> scratch;
  std::vector<Range> pieces;
  ASSERT_TRUE(step.split(text, {1, 3}, scratch, pieces).has_value());
  EXPECT_EQ(texts_of(text, pieces), (Texts{"b", "c"}));
}

}  // namespace
}  // namespace baton::text::bpe
