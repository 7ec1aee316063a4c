#include "text/bpe/byte_alphabet.h"

#include <array>

namespace baton::text::bpe {

namespace {

constexpr bool spells_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<char32_t, 256> spelling{};
  std::array<int16_t, 0x144> byte{};  // by character; -1 where it spells none
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte.fill(-1);
  char32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const char32_t spelling = spells_itself(byte) ? byte : next++;
    alphabet.spelling[byte] = spelling;
    alphabet.byte[spelling] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

char32_t spelling_of(uint8_t byte) { return kAlphabet.spelling[byte]; }

bool append_spelled_bytes(std::string& bytes, std::string_view spelled) {
  const size_t before = bytes.size();
  for (size_t at = 0; at < spelled.size(); ++at) {
    uint32_t point = static_cast<uint8_t>(spelled[at]);
    // The alphabet ends at U+0143: characters of one or two bytes.
    if (point >= 0xC2 && point <= 0xC5 && at + 1 < spelled.size()) {
      point = (point & 0x1F) << 6 | (static_cast<uint8_t>(spelled[++at]) & 0x3F);
    } else if (point >= 0x80) {
      point = kAlphabet.byte.size();
    }
    if (point >= kAlphabet.byte.size() || kAlphabet.byte[point] < 0) {
      bytes.resize(before);
      return false;
    }
    bytes += static_cast<char>(kAlphabet.byte[point]);
  }
  return true;
}

}  // namespace baton::text::bpe
