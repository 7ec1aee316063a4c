#include "text/utf8.h"

#include <simdjson.h>

#include <algorithm>

namespace baton::text {

namespace {

// What a lead byte asks for (Unicode 15.0, table 3-7): the number of bytes, and the range of the second.
struct Lead {
  uint8_t bytes;
  uint8_t second_min;
  uint8_t second_max;
  uint8_t bits;  // of the lead byte that belong to the code point
};

constexpr Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0, byte};
  if (byte < 0xC2) return {0, 0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF, static_cast<uint8_t>(byte & 0x1F)};
  if (byte == 0xE0) return {3, 0xA0, 0xBF, 0};
  if (byte == 0xED) return {3, 0x80, 0x9F, 0x0D};
  if (byte < 0xF0) return {3, 0x80, 0xBF, static_cast<uint8_t>(byte & 0x0F)};
  if (byte == 0xF0) return {4, 0x90, 0xBF, 0};
  if (byte < 0xF4) return {4, 0x80, 0xBF, static_cast<uint8_t>(byte & 0x07)};
  if (byte == 0xF4) return {4, 0x80, 0x8F, 4};
  return {0, 0, 0, 0};
}

}  // namespace

Utf8Piece utf8_piece(std::string_view bytes, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const Lead lead = lead_of(byte(at));
  if (lead.bytes == 1) return {byte(at), 1, Utf8Kind::kCharacter};
  if (lead.bytes == 0) return {0xFFFD, 1, Utf8Kind::kIllFormed};
  char32_t point = lead.bits;
  for (uint8_t i = 1; i < lead.bytes; ++i) {
    if (at + i >= bytes.size()) return {0xFFFD, i, Utf8Kind::kIncomplete};
    const uint8_t next = byte(at + i);
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (next < min || next > max) return {0xFFFD, i, Utf8Kind::kIllFormed};
    point = point << 6 | (next & 0x3F);
  }
  return {point, lead.bytes, Utf8Kind::kCharacter};
}

size_t utf8_unfinished_bytes(std::string_view bytes) {
  for (size_t back = 1; back <= std::min<size_t>(3, bytes.size()); ++back) {
    const size_t at = bytes.size() - back;
    if (lead_of(static_cast<uint8_t>(bytes[at])).bytes == 0) continue;  // a continuation, or no byte of text
    const Utf8Piece piece = utf8_piece(bytes, at);
    return piece.kind == Utf8Kind::kIncomplete && piece.bytes == back ? back : 0;
  }
  return 0;
}

bool is_valid_utf8(std::string_view bytes) { return simdjson::validate_utf8(bytes.data(), bytes.size()); }

void append_utf8_replaced(std::string& text, std::string_view bytes) {
  if (is_valid_utf8(bytes)) {
    text += bytes;
    return;
  }
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Piece piece = utf8_piece(bytes, at);
    text += piece.kind == Utf8Kind::kCharacter ? bytes.substr(at, piece.bytes) : kReplacementCharacter;
    at += piece.bytes;
  }
}

void append_utf8(std::string& text, char32_t point) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(static_cast<uint8_t>(byte)); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xC0 | point >> 6);
    put(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    put(0xE0 | point >> 12);
    put(0x80 | (point >> 6 & 0x3F));
    put(0x80 | (point & 0x3F));
  } else {
    put(0xF0 | point >> 18);
    put(0x80 | (point >> 12 & 0x3F));
    put(0x80 | (point >> 6 & 0x3F));
    put(0x80 | (point & 0x3F));
  }
}

}  // namespace baton::text
