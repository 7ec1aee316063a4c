// Element types of tensors on disk, in memory and in the KV cache.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace baton {

enum class DType : uint8_t { kF32, kF16, kBf16, kI8, kI32, kI64, kU8, kBool, kF8E4M3 };

constexpr size_t size_of(DType type) {
  switch (type) {
    case DType::kF32:
      return 4;
    case DType::kF16:
      return 2;
    case DType::kBf16:
      return 2;
    case DType::kI8:
      return 1;
    case DType::kI32:
      return 4;
    case DType::kI64:
      return 8;
    case DType::kU8:
      return 1;
    case DType::kBool:
      return 1;
    case DType::kF8E4M3:
      return 1;
  }
  return 0;
}

// The name that Hugging Face configurations and vLLM's --dtype use: "bfloat16", "float32", "float16", ...
constexpr std::string_view dtype_name(DType type) {
  switch (type) {
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kBf16:
      return "bfloat16";
    case DType::kI8:
      return "int8";
    case DType::kI32:
      return "int32";
    case DType::kI64:
      return "int64";
    case DType::kU8:
      return "uint8";
    case DType::kBool:
      return "bool";
    case DType::kF8E4M3:
      return "float8_e4m3fn";
  }
  return "unknown";
}

// bfloat16 as its bits: the upper half of a float32. Arithmetic happens in float32.
struct Bf16 {
  uint16_t bits = 0;
  bool operator==(const Bf16&) const = default;
};
static_assert(sizeof(Bf16) == 2);

constexpr float to_float(Bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// float8_e4m3fn (Micikevicius et al. 2022, "FP8 formats for deep learning", table 1): 4 exponent bits of bias
// 7, 3 of fraction, subnormals, no infinities; all exponent and fraction bits set is NaN.
constexpr float float_of_e4m3(uint8_t bits) {
  const uint32_t sign = uint32_t{bits & 0x80U} << 24;
  const uint32_t exponent = bits >> 3 & 0xFU;
  const uint32_t fraction = bits & 7U;
  if ((bits & 0x7FU) == 0x7FU) return std::bit_cast<float>(sign | 0x7FC00000U);
  if (exponent > 0) return std::bit_cast<float>(sign | (exponent + 120) << 23 | fraction << 20);
  const float magnitude = static_cast<float>(fraction) * 0x1p-9F;
  return sign != 0 ? -magnitude : magnitude;
}

// Rounds to nearest, ties to even; NaN stays NaN (made quiet); subnormal results are flushed to zero, as the
// AVX-512 BF16 conversion does (Intel SDM, VCVTNEPS2BF16).
constexpr Bf16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return {static_cast<uint16_t>((bits >> 16) | 0x40U)};
  if (magnitude < 0x00800000U) return {static_cast<uint16_t>((bits >> 16) & 0x8000U)};
  return {static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}

}  // namespace baton
