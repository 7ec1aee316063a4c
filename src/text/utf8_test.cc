#include "text/utf8.h"

#include <gtest/gtest.h>

namespace baton::text {
namespace {

std::string replaced(std::string_view bytes) {
  std::string text;
  append_utf8_replaced(text, bytes);
  return text;
}

// Rows of table 3-8 and 3-11 of the Unicode Standard 15.0, and the ends of each range.
TEST(Utf8, ReplacesMaximalSubpartsAsTheUnicodeStandardDoes) {
  const std::string r(kReplacementCharacter);
  const struct {
    std::string_view bytes;
    std::string text;
  } rows[] = {
      {"", ""},
      {"abc", "abc"},
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", r + r + r + r + r + "A" + r + r + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", r + r + r + r + "A"},
      {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
      {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},
      {"\xF0\x9F\x98", r},
      {"\xE2\x82", r},
      {"\xC2", r},
  };
  for (const auto& row : rows) EXPECT_EQ(replaced(row.bytes), row.text) << testing::PrintToString(row.bytes);
}

TEST(Utf8, FindsTheUnfinishedCharacterAtTheEnd) {
  const struct {
    std::string_view bytes;
    size_t unfinished;
  } rows[] = {
      {"", 0},
      {"a", 0},
      {"a\xC2", 1},
      {"\xC2\xA9", 0},
      {"\xE2\x82", 2},
      {"\xE2", 1},
      {"\xF0\x9F\x98", 3},
      {"\xF0\x9F\x98\x80", 0},
      {"\x80\x80", 0},
      {"\xF4\x91", 0},
      {"\xED\xA0", 0},
      {"\xE0\x80\x80", 0},
      {"\xFF", 0},
      {"\xF0\x9F\x98\x80\x80\x80", 0},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(utf8_unfinished_bytes(row.bytes), row.unfinished) << testing::PrintToString(row.bytes);
  }
}

TEST(Utf8, EveryScalarValueSurvivesTheRoundTrip) {
  for (char32_t point = 0; point <= 0x10FFFF; ++point) {
    if (point >= 0xD800 && point <= 0xDFFF) continue;
    std::string text;
    append_utf8(text, point);
    const Utf8Piece piece = utf8_piece(text, 0);
    ASSERT_TRUE(piece.kind == Utf8Kind::kCharacter && piece.point == point && piece.bytes == text.size())
        << static_cast<uint32_t>(point);
  }
}

}  // namespace
}  // namespace baton::text
