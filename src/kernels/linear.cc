#include "kernels/linear.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "kernels/cpu/ops.h"

namespace baton::kernels {
namespace {

// A task's weights: large enough that claiming it costs nothing, small enough to stay in the second-level
// cache while many rows pass by and to leave every thread a share.
constexpr size_t kTaskWeightBytes = 256 * 1024;
constexpr size_t kTaskRowsMin = 48;  // fewer rows would read the weights too often
constexpr size_t kTileColumns = 4;
constexpr size_t kTileRows = 6;
constexpr size_t kTasksPerThread = 8;

bool is_float(DType type) { return type == DType::kF32 || type == DType::kF16 || type == DType::kBf16; }

void check_product(const Linear& p) {
  CHECK(p.x.cols == p.weight.cols, "x [{}, {}], weight [{}, {}]", p.x.rows, p.x.cols, p.weight.rows,
        p.weight.cols);
  CHECK(p.y.rows == p.x.rows && p.y.cols == p.weight.rows, "y [{}, {}], expected [{}, {}]", p.y.rows,
        p.y.cols, p.x.rows, p.weight.rows);
  const bool bf16 = p.x.dtype == DType::kBf16 && p.weight.dtype == DType::kBf16;
  CHECK(bf16 || (p.x.dtype == DType::kF32 && is_float(p.weight.dtype)), "x {}, weight {}",
        dtype_name(p.x.dtype), dtype_name(p.weight.dtype));
  CHECK(p.y.dtype == DType::kF32 || p.y.dtype == DType::kBf16, "y {}", dtype_name(p.y.dtype));
  CHECK(p.bias.data == nullptr || (p.bias.size == p.weight.rows && is_float(p.bias.dtype)), "bias [{}] of {}",
        p.bias.size, p.weight.rows);
  CHECK(std::has_single_bit(p.slices) && p.slices <= kSlicesMax && p.x.cols % p.slices == 0,
        "{} slices of K {}", p.slices, p.x.cols);
}

// How a product is cut into tasks: blocks of columns times blocks of rows. The cut never shows in a result.
struct Cut {
  size_t columns = 0;
  size_t rows = 0;
  size_t column_blocks = 0;
  size_t row_blocks = 0;

  size_t tasks() const { return column_blocks * row_blocks; }
};

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

Cut cut(const Linear& p, size_t threads) {
  if (p.x.rows == 0 || p.weight.rows == 0) return {};
  Cut c;
  const size_t row_bytes = std::max<size_t>(1, p.weight.cols * size_of(p.weight.dtype));
  const bool panels = p.x.dtype == DType::kBf16 && p.x.rows >= kPanelRowsSliced;
  const size_t unit = panels ? kPanelColumns : kTileColumns;
  const size_t fitting = std::max(kTaskWeightBytes / row_bytes, unit) / unit * unit;
  c.columns = std::min(fitting, round_up(p.weight.rows, unit));
  c.column_blocks = (p.weight.rows + c.columns - 1) / c.columns;
  c.rows = p.x.rows;
  c.row_blocks = 1;
  while (threads > 1 && c.tasks() < kTasksPerThread * threads && c.rows > kTaskRowsMin) {
    c.rows = round_up((c.rows + 1) / 2, kTileRows);
    c.row_blocks = (p.x.rows + c.rows - 1) / c.rows;
  }
  return c;
}

void run_task(const Ops& ops, const Linear& p, const Cut& c, size_t task) {
  const size_t col = task / c.row_blocks * c.columns;
  const size_t row = task % c.row_blocks * c.rows;
  const std::byte* bias = static_cast<const std::byte*>(p.bias.data);
  ops.product({.x = p.x.at(row, 0),
               .w = p.weight.at(col, 0),
               .bias = bias == nullptr ? nullptr : bias + col * size_of(p.bias.dtype),
               .y = p.y.at(row, col),
               .x_stride = p.x.stride,
               .w_stride = p.weight.stride,
               .y_stride = p.y.stride,
               .x_type = p.x.dtype,
               .w_type = p.weight.dtype,
               .bias_type = p.bias.dtype,
               .y_type = p.y.dtype,
               .rows = std::min(c.rows, p.x.rows - row),
               .cols = std::min(c.columns, p.weight.rows - col),
               .k = p.x.cols,
               .slices = p.slices});
}

}  // namespace

void linear(const Cpu& cpu, const Linear& product) { linear_all(cpu, {&product, 1}); }

void linear_all(const Cpu& cpu, std::span<const Linear> products) {
  std::vector<Cut> cuts;
  std::vector<size_t> first_task{0};
  for (const Linear& product : products) {
    check_product(product);
    cuts.push_back(cut(product, cpu.team().threads()));
    first_task.push_back(first_task.back() + cuts.back().tasks());
  }
  cpu.team().run(first_task.back(), [&](size_t task) {
    const auto after = std::upper_bound(first_task.begin(), first_task.end(), task);
    const size_t i = static_cast<size_t>(after - first_task.begin()) - 1;
    run_task(cpu.ops(), products[i], cuts[i], task - first_task[i]);
  });
}

void add_bias(const Cpu& cpu, ConstMatrix sum, ConstVector bias, Matrix y) {
  CHECK(sum.dtype == DType::kF32 && sum.rows == y.rows && sum.cols == y.cols, "sum {} [{}, {}]",
        dtype_name(sum.dtype), sum.rows, sum.cols);
  CHECK(bias.data == nullptr || bias.size == y.cols, "bias [{}] of {}", bias.size, y.cols);
  cpu.team().run(y.rows, [&](size_t r) {
    cpu.ops().add_bias(static_cast<const float*>(sum.at(r, 0)), bias.data, bias.dtype, y.at(r, 0), y.dtype,
                       y.cols);
  });
}

}  // namespace baton::kernels
