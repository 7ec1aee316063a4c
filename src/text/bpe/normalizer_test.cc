#include "text/bpe/normalizer.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <array>
#include <cstdlib>
#include <random>
#include <string>
#include <string_view>

#include "text/utf8.h"

namespace baton::text::bpe {
namespace {

constexpr NormalForm kForms[] = {NormalForm::kNfc, NormalForm::kNfd, NormalForm::kNfkc, NormalForm::kNfkd};

std::string normal(NormalForm form, std::string_view text) {
  std::string scratch;
  return std::string(Normalizer{{form}}.apply(text, scratch).value());
}

// What utf8proc's own function of one call makes of it.
std::string reference(NormalForm form, const std::string& text) {
  const auto of = std::to_array({utf8proc_NFC, utf8proc_NFD, utf8proc_NFKC, utf8proc_NFKD});
  utf8proc_uint8_t* mapped =
      of[static_cast<size_t>(form)](reinterpret_cast<const utf8proc_uint8_t*>(text.c_str()));
  const std::string copy(reinterpret_cast<const char*>(mapped));
  std::free(mapped);
  return copy;
}

TEST(Normalizer, MakesOfAnyCharactersWhatTheirDefinitionSays) {
  // Letters, marks of several classes, marks that decompose, Hangul, ligatures, exclusions from composition.
  constexpr char32_t kPoints[] = {U'e',   U'a',   0xE9,   0x1EC7, 0x300,  0x301,   0x308,  0x323,   0x327,
                                  0x344,  0x340,  0xF71,  0xF73,  0xF81,  0x345,   0x1112, 0x1161,  0x11AB,
                                  0xD55C, 0xFB01, 0xFDFA, 0x958,  0x212B, 0x1D15E, 0x2ADC, 0x1F600, 0x10FFFF};
  std::mt19937 random(7);
  for (int i = 0; i < 4000; ++i) {
    std::string text;
    for (size_t length = 1 + random() % 24; length > 0; --length) {
      append_utf8(text, kPoints[random() % std::size(kPoints)]);
    }
    for (const NormalForm form : kForms) EXPECT_EQ(normal(form, text), reference(form, text)) << text;
  }
}

// In time that grows with the square of the length this would take hours.
TEST(Normalizer, OrdersALongRunOfMarks) {
  constexpr size_t kPairs = 500'000;
  std::string text = "x";
  for (size_t i = 0; i < kPairs; ++i) text += "\xCC\x81\xCC\xA7";  // an acute, class 230; a cedilla, 202
  std::string expected = "x";
  for (size_t i = 0; i < kPairs; ++i) expected += "\xCC\xA7";
  for (size_t i = 0; i < kPairs; ++i) expected += "\xCC\x81";
  EXPECT_TRUE(normal(NormalForm::kNfd, text) == expected);
  EXPECT_TRUE(normal(NormalForm::kNfc, text) == expected);
}

}  // namespace
}  // namespace baton::text::bpe
