// What a pass writes, apart from the KV cache. Owned by a model, used by the engine thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

#include "base/check.h"
#include "kernels/matrix.h"

namespace baton::model {

// Activations [rows_max, cols], aligned, allocated once; a pass uses the first rows of it.
class Activations {
 public:
  Activations(DType dtype, size_t rows_max, size_t cols)
      : dtype_(dtype),
        rows_max_(rows_max),
        cols_(cols),
        data_(static_cast<std::byte*>(::operator new(std::max<size_t>(rows_max * cols * size_of(dtype), 1),
                                                     std::align_val_t{kAlignment}))) {}

  kernels::Matrix first(size_t rows) const {
    CHECK(rows <= rows_max_, "{} rows, at most {}", rows, rows_max_);
    return {data_.get(), dtype_, rows, cols_, cols_};
  }

 private:
  static constexpr size_t kAlignment = 64;
  struct Free {
    void operator()(std::byte* data) const { ::operator delete(data, std::align_val_t{kAlignment}); }
  };
  DType dtype_;
  size_t rows_max_;
  size_t cols_;
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace baton::model
