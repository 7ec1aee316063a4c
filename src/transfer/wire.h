// Little-endian fields, written one after the other and read back with every bound checked.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/result.h"

namespace baton::transfer {

class Writer {
 public:
  template <class T>
  void number(T value) {
    for (size_t i = 0; i < sizeof(T); ++i) {
      bytes_.push_back(static_cast<std::byte>(static_cast<uint64_t>(value) >> (8 * i) & 0xFF));
    }
  }
  template <size_t kBytes>
  void raw(const std::array<uint8_t, kBytes>& value) {
    for (const uint8_t byte : value) bytes_.push_back(static_cast<std::byte>(byte));
  }
  void bytes(std::span<const std::byte> value) { bytes_.insert(bytes_.end(), value.begin(), value.end()); }
  // u16 length, bytes. Cut at `bytes_max`.
  void text(std::string_view value, size_t bytes_max) {
    value = value.substr(0, bytes_max);
    number(static_cast<uint16_t>(value.size()));
    for (const char c : value) bytes_.push_back(static_cast<std::byte>(c));
  }
  void set_u32(size_t at, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) bytes_[at + i] = static_cast<std::byte>(value >> (8 * i) & 0xFF);
  }
  size_t size() const { return bytes_.size(); }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Remembers the first field that did not fit; later reads give zeroes.
class Reader {
 public:
  Reader(std::string_view message, std::span<const std::byte> bytes) : message_(message), bytes_(bytes) {}

  template <class T>
  T number(std::string_view field) {
    uint64_t value = 0;
    if (need(sizeof(T), field)) {
      for (size_t i = 0; i < sizeof(T); ++i) value |= std::to_integer<uint64_t>(bytes_[i]) << (8 * i);
      bytes_ = bytes_.subspan(sizeof(T));
    }
    return static_cast<T>(value);
  }
  template <size_t kBytes>
  void raw(std::array<uint8_t, kBytes>& value, std::string_view field) {
    if (!need(kBytes, field)) return;
    std::memcpy(value.data(), bytes_.data(), kBytes);
    bytes_ = bytes_.subspan(kBytes);
  }
  void bytes(std::span<std::byte> value, std::string_view field) {
    if (value.empty() || !need(value.size(), field)) return;
    std::memcpy(value.data(), bytes_.data(), value.size());
    bytes_ = bytes_.subspan(value.size());
  }
  std::string text(std::string_view field, size_t bytes_max) {
    const size_t size = number<uint16_t>(field);
    if (size > bytes_max) wrong(field, fmt::format("{} bytes", size), fmt::format("at most {}", bytes_max));
    if (!need(size, field)) return {};
    std::string value(reinterpret_cast<const char*>(bytes_.data()), size);
    bytes_ = bytes_.subspan(size);
    return value;
  }
  bool flag(std::string_view field) {
    const auto value = number<uint8_t>(field);
    if (value > 1) wrong(field, fmt::format("{}", value), "0 or 1");
    return value == 1;
  }
  // A count of entries of `entry_bytes` each that the rest of the message can hold.
  size_t count(std::string_view field, size_t entry_bytes, size_t count_max) {
    const size_t count = number<uint32_t>(field);
    if (count > count_max)
      wrong(field, fmt::format("{} entries", count), fmt::format("at most {}", count_max));
    return !error_ && need(count * entry_bytes, field) ? count : 0;
  }
  void wrong(std::string_view field, std::string_view value, std::string_view expected) {
    if (!error_)
      error_ =
          Error{Code::kCorrupt, fmt::format("{}: {}: {}, expected {}", message_, field, value, expected)};
  }
  // The error so far; surplus bytes are one too.
  Result<void> finish() {
    if (!bytes_.empty()) wrong("body", fmt::format("{} surplus bytes", bytes_.size()), "none");
    if (error_) return Failure(*error_);
    return {};
  }

 private:
  bool need(size_t bytes, std::string_view field) {
    if (error_) return false;
    if (bytes <= bytes_.size()) return true;
    wrong(field, fmt::format("{} bytes left", bytes_.size()), fmt::format("{}", bytes));
    bytes_ = {};
    return false;
  }

  std::string_view message_;
  std::span<const std::byte> bytes_;
  std::optional<Error> error_;
};

}  // namespace baton::transfer
