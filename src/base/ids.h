// Names of things, each its own type, so that one is never taken for another. Free at run time.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace baton {

using TokenId = int32_t;  // an index into a model's vocabulary; negative never names a token

enum class BlockId : uint32_t {};    // a KV block of one arena: its index, [0, blocks)
enum class RequestId : uint64_t {};  // a request of one engine; never reused within a process

constexpr uint32_t index(BlockId id) { return static_cast<uint32_t>(id); }
constexpr uint64_t value(RequestId id) { return static_cast<uint64_t>(id); }

// 128 random bits. Text form: 32 lower-case hexadecimal digits. All zero means "none".
template <class Tag>
struct Id128 {
  std::array<uint8_t, 16> bytes{};

  bool operator==(const Id128&) const = default;
  auto operator<=>(const Id128&) const = default;
  explicit operator bool() const { return bytes != std::array<uint8_t, 16>{}; }

  std::string hex() const {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text(2 * bytes.size(), '0');
    for (size_t i = 0; i < bytes.size(); ++i) {
      text[2 * i] = kDigits[bytes[i] >> 4];
      text[2 * i + 1] = kDigits[bytes[i] & 15];
    }
    return text;
  }

  // Nothing unless `text` is exactly 32 hexadecimal digits.
  static std::optional<Id128> parse(std::string_view text) {
    if (text.size() != 32) return std::nullopt;
    Id128 id;
    for (size_t i = 0; i < 32; ++i) {
      const char c = text[i];
      int digit = -1;
      if (c >= '0' && c <= '9') digit = c - '0';
      if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
      if (c >= 'A' && c <= 'F') digit = c - 'A' + 10;
      if (digit < 0) return std::nullopt;
      id.bytes[i / 2] = static_cast<uint8_t>(id.bytes[i / 2] << 4 | digit);
    }
    return id;
  }
};

using Incarnation = Id128<struct IncarnationTag>;  // one life of a process: drawn at start, never kept
using TransferId = Id128<struct TransferIdTag>;    // one Landing: D's permission to fill its blocks
using HandoverId = Id128<struct HandoverIdTag>;    // one held prefill on P, under a lease

// Draws from the operating system's generator. For identities, never for sampling tokens.
template <class Id>
Id random_id();
template <>
Incarnation random_id<Incarnation>();
template <>
TransferId random_id<TransferId>();
template <>
HandoverId random_id<HandoverId>();

}  // namespace baton

template <class Tag>
struct std::hash<baton::Id128<Tag>> {
  size_t operator()(const baton::Id128<Tag>& id) const noexcept {
    size_t h = 0;
    for (size_t i = 0; i < 8; ++i) h = h << 8 | id.bytes[i];
    return h;
  }
};
