#include "kernels/elementwise.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/cpu/ops.h"

namespace baton::kernels {
namespace {

// Elements of a row group that is worth a task; below that the calling thread does all rows.
constexpr size_t kTaskElements = 16 * 1024;

bool is_activation(DType type) { return type == DType::kF32 || type == DType::kBf16; }
bool is_float(DType type) { return is_activation(type) || type == DType::kF16; }

void check_same(ConstMatrix a, ConstMatrix b) {
  CHECK(a.rows == b.rows && a.cols == b.cols && a.dtype == b.dtype, "{} [{}, {}] and {} [{}, {}]",
        dtype_name(a.dtype), a.rows, a.cols, dtype_name(b.dtype), b.rows, b.cols);
  CHECK(is_activation(a.dtype), "activations in {}", dtype_name(a.dtype));
}

// row(r) for every row, in tasks of about kTaskElements.
template <class Row>
void over_rows(const Cpu& cpu, size_t rows, size_t cols, Row&& row) {
  const size_t per_task = std::max<size_t>(1, kTaskElements / std::max<size_t>(1, cols));
  cpu.team().run((rows + per_task - 1) / per_task, [&](size_t task) {
    const size_t end = std::min(rows, (task + 1) * per_task);
    for (size_t r = task * per_task; r < end; ++r) row(r);
  });
}

}  // namespace

void embed(const Cpu& cpu, ConstMatrix table, std::span<const TokenId> tokens, Matrix y) {
  CHECK(is_float(table.dtype) && is_activation(y.dtype), "table {}, y {}", dtype_name(table.dtype),
        dtype_name(y.dtype));
  CHECK(y.rows == tokens.size() && y.cols == table.cols, "y [{}, {}], {} tokens of {}", y.rows, y.cols,
        tokens.size(), table.cols);
  for (const TokenId token : tokens) {
    CHECK(token >= 0 && static_cast<size_t>(token) < table.rows, "token {} of {}", token, table.rows);
  }
  over_rows(cpu, y.rows, y.cols, [&](size_t r) {
    cpu.ops().convert(table.at(static_cast<size_t>(tokens[r]), 0), table.dtype, y.at(r, 0), y.dtype, y.cols);
  });
}

void gather_rows(const Cpu& cpu, ConstMatrix x, std::span<const uint32_t> rows, Matrix y) {
  CHECK(y.rows == rows.size() && y.cols == x.cols && y.dtype == x.dtype, "y [{}, {}], {} rows of {}", y.rows,
        y.cols, rows.size(), x.cols);
  for (const uint32_t row : rows) CHECK(row < x.rows, "row {} of {}", row, x.rows);
  const size_t bytes = x.cols * size_of(x.dtype);
  over_rows(cpu, y.rows, y.cols, [&](size_t r) { std::memcpy(y.at(r, 0), x.at(rows[r], 0), bytes); });
}

void rms_norm(const Cpu& cpu, ConstMatrix x, ConstVector weight, float epsilon, Matrix y) {
  check_same(x, y);
  CHECK(weight.size == x.cols && is_float(weight.dtype), "weight {} [{}] of {}", dtype_name(weight.dtype),
        weight.size, x.cols);
  over_rows(cpu, x.rows, x.cols, [&](size_t r) {
    cpu.ops().rms_norm(x.at(r, 0), weight.data, weight.dtype, epsilon, y.at(r, 0), x.dtype, x.cols);
  });
}

void add_rms_norm(const Cpu& cpu, Matrix h, ConstMatrix delta, ConstVector weight, float epsilon, Matrix y) {
  check_same(h, delta);
  check_same(h, y);
  CHECK(weight.size == h.cols && is_float(weight.dtype), "weight {} [{}] of {}", dtype_name(weight.dtype),
        weight.size, h.cols);
  over_rows(cpu, h.rows, h.cols, [&](size_t r) {
    cpu.ops().add(h.at(r, 0), delta.at(r, 0), h.dtype, h.cols);
    cpu.ops().rms_norm(h.at(r, 0), weight.data, weight.dtype, epsilon, y.at(r, 0), h.dtype, h.cols);
  });
}

void add(const Cpu& cpu, Matrix h, ConstMatrix delta) {
  check_same(h, delta);
  over_rows(cpu, h.rows, h.cols,
            [&](size_t r) { cpu.ops().add(h.at(r, 0), delta.at(r, 0), h.dtype, h.cols); });
}

void rms_norm_heads(const Cpu& cpu, Matrix x, ConstVector weight, float epsilon) {
  CHECK(weight.size > 0 && x.cols % weight.size == 0, "{} columns, heads of {}", x.cols, weight.size);
  CHECK(is_activation(x.dtype) && is_float(weight.dtype), "x {}, weight {}", dtype_name(x.dtype),
        dtype_name(weight.dtype));
  over_rows(cpu, x.rows, x.cols, [&](size_t r) {
    for (size_t c = 0; c < x.cols; c += weight.size) {
      cpu.ops().rms_norm(x.at(r, c), weight.data, weight.dtype, epsilon, x.at(r, c), x.dtype, weight.size);
    }
  });
}

namespace {

void check_positions(ConstMatrix x, const RopeTable& table, std::span<const uint32_t> positions) {
  CHECK(positions.size() == x.rows && is_activation(x.dtype), "{} positions, {} rows of {}", positions.size(),
        x.rows, dtype_name(x.dtype));
  for (const uint32_t position : positions) {
    CHECK(position < table.positions(), "position {} of {}", position, table.positions());
  }
}

// Elements 0, 2, 4, ... before 1, 3, 5, ...
template <class T>
void part_pairs(void* head, size_t half) {
  T* elements = static_cast<T*>(head);
  std::array<T, kRopeDimMax / 2> odd;
  for (size_t i = 0; i < half; ++i) {
    odd[i] = elements[2 * i + 1];
    elements[i] = elements[2 * i];
  }
  std::copy_n(odd.begin(), half, elements + half);
}

}  // namespace

void rope(const Cpu& cpu, Matrix x, const RopeTable& table, std::span<const uint32_t> positions) {
  const size_t head_dim = 2 * table.half();
  CHECK(head_dim > 0 && x.cols % head_dim == 0, "{} columns, heads of {}", x.cols, head_dim);
  check_positions(x, table, positions);
  over_rows(cpu, x.rows, x.cols, [&](size_t r) {
    const float* cos = table.cos(positions[r]);
    const float* sin = table.sin(positions[r]);
    for (size_t c = 0; c < x.cols; c += head_dim) cpu.ops().rope(x.at(r, c), cos, sin, x.dtype, table.half());
  });
}

void rope_neighbours(const Cpu& cpu, Matrix x, size_t head_dim, const RopeTable& table,
                     std::span<const uint32_t> positions) {
  const size_t rotated = 2 * table.half();
  CHECK(rotated > 0 && rotated <= std::min(head_dim, kRopeDimMax) && x.cols % head_dim == 0,
        "{} columns, heads of {}, {} rotated", x.cols, head_dim, rotated);
  check_positions(x, table, positions);
  over_rows(cpu, x.rows, x.cols, [&](size_t r) {
    for (size_t c = head_dim - rotated; c < x.cols; c += head_dim) {
      if (x.dtype == DType::kBf16) {
        part_pairs<Bf16>(x.at(r, c), table.half());
      } else {
        part_pairs<float>(x.at(r, c), table.half());
      }
      cpu.ops().rope(x.at(r, c), table.cos(positions[r]), table.sin(positions[r]), x.dtype, table.half());
    }
  });
}

void silu_mul(const Cpu& cpu, ConstMatrix gate, ConstMatrix up, Matrix y) {
  check_same(gate, up);
  check_same(gate, y);
  over_rows(cpu, y.rows, y.cols,
            [&](size_t r) { cpu.ops().silu_mul(gate.at(r, 0), up.at(r, 0), y.at(r, 0), y.dtype, y.cols); });
}

void convert(const Cpu& cpu, ConstMatrix x, Matrix y) {
  CHECK(x.rows == y.rows && x.cols == y.cols && is_float(x.dtype) && is_activation(y.dtype),
        "{} [{}, {}] to {} [{}, {}]", dtype_name(x.dtype), x.rows, x.cols, dtype_name(y.dtype), y.rows,
        y.cols);
  over_rows(cpu, x.rows, x.cols,
            [&](size_t r) { cpu.ops().convert(x.at(r, 0), x.dtype, y.at(r, 0), y.dtype, x.cols); });
}

}  // namespace baton::kernels
