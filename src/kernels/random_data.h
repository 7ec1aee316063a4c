// Inputs of the kernels' tests and benchmarks: reproducible numbers from a seed.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace baton::kernels {

// SplitMix64 (Steele, Lea, Flood 2014).
class RandomData {
 public:
  explicit RandomData(uint64_t seed) : state_(seed) {}

  uint64_t word() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15U;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
    z = (z ^ z >> 27) * 0x94D049BB133111EBU;
    return z ^ z >> 31;
  }
  size_t below(size_t n) { return word() % n; }
  // Uniform in [-magnitude, magnitude).
  float number(float magnitude = 1.0F) {
    return (static_cast<float>(word() >> 40) * 0x1p-23F - 1.0F) * magnitude;
  }
  std::vector<float> floats(size_t n, float magnitude = 1.0F) {
    std::vector<float> v(n);
    for (float& x : v) x = number(magnitude);
    return v;
  }
  std::vector<Bf16> bf16s(size_t n, float magnitude = 1.0F) {
    std::vector<Bf16> v(n);
    for (Bf16& x : v) x = to_bf16(number(magnitude));
    return v;
  }
  // Bit patterns of finite halves, subnormal ones among them.
  std::vector<uint16_t> halves(size_t n) {
    std::vector<uint16_t> v(n);
    for (uint16_t& x : v) x = static_cast<uint16_t>(word() & 0xBFFFU);
    return v;
  }

 private:
  uint64_t state_;
};

// A tensor of one type chosen at run time, with its storage.
struct Tensor {
  std::vector<uint32_t> storage;
  DType dtype = DType::kF32;
  size_t rows = 0;
  size_t cols = 0;

  Tensor(DType type, size_t r, size_t c)
      : storage((r * c * size_of(type) + 3) / 4), dtype(type), rows(r), cols(c) {}
  static Tensor random(RandomData& data, DType type, size_t rows, size_t cols, float magnitude = 1.0F) {
    Tensor t(type, rows, cols);
    for (size_t i = 0; i < rows * cols; ++i) t.set(i, data.number(magnitude));
    return t;
  }
  void set(size_t i, float x) {
    if (dtype == DType::kF32) reinterpret_cast<float*>(storage.data())[i] = x;
    if (dtype == DType::kBf16) reinterpret_cast<Bf16*>(storage.data())[i] = to_bf16(x);
    if (dtype == DType::kF16) reinterpret_cast<_Float16*>(storage.data())[i] = static_cast<_Float16>(x);
  }
  Matrix matrix() & { return {storage.data(), dtype, rows, cols, cols}; }
  ConstMatrix matrix() const& { return {storage.data(), dtype, rows, cols, cols}; }
  ConstVector vector() const { return {storage.data(), dtype, rows * cols}; }
  bool operator==(const Tensor& other) const = default;
};

// Half the distance from 1 to the next number: the largest relative error of one rounding.
constexpr double rounding_of(DType type) { return type == DType::kBf16 ? 0x1p-8 : 0x1p-24; }

}  // namespace baton::kernels
