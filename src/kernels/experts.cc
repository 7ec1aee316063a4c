#include "kernels/experts.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <numeric>

#include "kernels/cpu/ops.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"

namespace baton::kernels {
namespace {

constexpr size_t kScatteredRows = 64;  // of a task

float as_chosen(float score) { return score == score ? score : -1e30F; }  // NaN: last

// The best `count` of `scores`, ties to the lowest id, in ascending id.
void choose(std::span<const float> scores, size_t count, uint32_t* experts) {
  std::vector<uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0U);
  const auto better = [&](uint32_t a, uint32_t b) {
    const float sa = as_chosen(scores[a]);
    const float sb = as_chosen(scores[b]);
    return sa != sb ? sa > sb : a < b;
  };
  const auto end = order.begin() + static_cast<ptrdiff_t>(count);
  std::partial_sort(order.begin(), end, order.end(), better);
  std::sort(order.begin(), end);
  std::copy(order.begin(), end, experts);
}

// Experts of groups that are not among the best get -infinity.
void close_groups(std::span<float> scores, const RoutingRule& rule) {
  const size_t size = scores.size() / rule.groups;
  std::vector<float> best(rule.groups);
  for (size_t g = 0; g < rule.groups; ++g) {
    const std::span<float> group = scores.subspan(g * size, size);
    std::array<float, 2> top{-std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity()};
    for (const float score : group) {
      const float s = as_chosen(score);
      if (s > top[0]) {
        top = {s, top[0]};
      } else if (s > top[1]) {
        top[1] = s;
      }
    }
    best[g] = rule.bias.data != nullptr && size > 1 ? top[0] + top[1] : top[0];
  }
  std::vector<uint32_t> order(rule.groups);
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::sort(order,
                    [&](uint32_t a, uint32_t b) { return best[a] != best[b] ? best[a] > best[b] : a < b; });
  for (size_t i = rule.groups_per_row; i < order.size(); ++i) {
    std::ranges::fill(scores.subspan(order[i] * size, size), -std::numeric_limits<float>::infinity());
  }
}

// The slots of each local expert, one expert after the other.
struct Groups {
  std::vector<uint32_t> slot;  // row * per_row + place, grouped by expert, rows ascending
  std::vector<size_t> first;   // [experts + 1] into slot
};

Groups group_by_expert(const Routing& routing, size_t first_expert, size_t experts) {
  Groups groups;
  groups.first.assign(experts + 1, 0);
  const auto local = [&](uint32_t expert) {
    return expert >= first_expert && expert - first_expert < experts;
  };
  for (const uint32_t expert : routing.expert) {
    if (local(expert)) ++groups.first[expert - first_expert + 1];
  }
  std::partial_sum(groups.first.begin(), groups.first.end(), groups.first.begin());
  groups.slot.resize(groups.first.back());
  std::vector<size_t> next(groups.first.begin(), groups.first.end() - 1);
  for (size_t s = 0; s < routing.expert.size(); ++s) {
    if (local(routing.expert[s]))
      groups.slot[next[routing.expert[s] - first_expert]++] = static_cast<uint32_t>(s);
  }
  return groups;
}

void sigmoid(const Cpu& cpu, ConstMatrix logits, size_t row, std::span<float> scores) {
  cpu.ops().convert(logits.at(row, 0), logits.dtype, scores.data(), DType::kF32, scores.size());
  for (float& score : scores) score = -score;
  cpu.ops().exp(scores.data(), scores.data(), scores.size());
  for (float& score : scores) score = 1.0F / (1.0F + score);
}

// [rows, cols] of the type of x within `memory` from byte `at` on.
Matrix part(std::byte* memory, size_t& at, DType type, size_t rows, size_t cols) {
  const Matrix m{memory + at, type, rows, cols, cols};
  at += (rows * cols * size_of(type) + 63) / 64 * 64;
  return m;
}

}  // namespace

Routing route(const Cpu& cpu, ConstMatrix logits, size_t per_row, const RoutingRule& rule) {
  CHECK(per_row > 0 && per_row <= logits.cols, "{} of {} experts", per_row, logits.cols);
  CHECK(logits.dtype == DType::kF32 || logits.dtype == DType::kBf16, "logits {}", dtype_name(logits.dtype));
  CHECK(rule.groups > 0 && logits.cols % rule.groups == 0 && rule.groups_per_row > 0 &&
            rule.groups_per_row <= rule.groups &&
            per_row <= rule.groups_per_row * (logits.cols / rule.groups),
        "{} of {} groups of {} experts", rule.groups_per_row, rule.groups, logits.cols);
  CHECK(rule.bias.data == nullptr || (rule.bias.dtype == DType::kF32 && rule.bias.size == logits.cols),
        "bias {} [{}]", dtype_name(rule.bias.dtype), rule.bias.size);
  Routing routing{.rows = logits.rows, .per_row = per_row, .expert = {}, .weight = {}};
  routing.expert.resize(logits.rows * per_row);
  routing.weight.resize(logits.rows * per_row);
  cpu.team().run(logits.rows, [&](size_t r) {
    std::vector<float> scores(logits.cols);
    if (rule.sigmoid) {
      sigmoid(cpu, logits, r, scores);
    } else {
      cpu.ops().softmax(logits.at(r, 0), logits.dtype, scores.data(), logits.cols);
    }
    std::vector<float> chosen_by = scores;
    for (size_t e = 0; rule.bias.data != nullptr && e < scores.size(); ++e)
      chosen_by[e] += static_cast<const float*>(rule.bias.data)[e];
    if (rule.groups > 1) close_groups(chosen_by, rule);
    uint32_t* experts = routing.expert.data() + r * per_row;
    float* weights = routing.weight.data() + r * per_row;
    choose(chosen_by, per_row, experts);
    float sum = 0;
    for (size_t i = 0; i < per_row; ++i) sum += weights[i] = scores[experts[i]];
    for (size_t i = 0; i < per_row; ++i) {
      if (rule.renormalise) weights[i] /= sum;
      weights[i] *= rule.scaling;
    }
  });
  return routing;
}

void run_experts(const Cpu& cpu, ConstMatrix x, const Routing& routing, std::span<const Expert> experts,
                 size_t first_expert, Matrix slot_outputs) {
  CHECK(x.rows == routing.rows, "{} rows, routing of {}", x.rows, routing.rows);
  CHECK(slot_outputs.rows == routing.rows * routing.per_row && slot_outputs.cols == x.cols &&
            slot_outputs.dtype == x.dtype,
        "slot outputs {} [{}, {}]", dtype_name(slot_outputs.dtype), slot_outputs.rows, slot_outputs.cols);
  const Groups groups = group_by_expert(routing, first_expert, experts.size());
  const size_t slots = groups.slot.size();
  if (slots == 0) return;
  const size_t inner = experts.front().gate.rows;
  const size_t line = (2 * x.cols + 2 * inner) * size_of(x.dtype);
  std::byte* memory = cpu.scratch(slots * line + 4 * 64);
  size_t at = 0;
  const Matrix inputs = part(memory, at, x.dtype, slots, x.cols);
  const Matrix gates = part(memory, at, x.dtype, slots, inner);
  const Matrix ups = part(memory, at, x.dtype, slots, inner);
  const Matrix outputs = part(memory, at, x.dtype, slots, x.cols);

  std::vector<uint32_t> rows(slots);
  for (size_t i = 0; i < slots; ++i) rows[i] = static_cast<uint32_t>(groups.slot[i] / routing.per_row);
  gather_rows(cpu, x, rows, inputs);
  std::vector<Linear> entering;
  std::vector<Linear> leaving;
  for (size_t e = 0; e < experts.size(); ++e) {
    const size_t first = groups.first[e];
    const size_t count = groups.first[e + 1] - first;
    if (count == 0) continue;
    const Matrix own = inputs.row_range(first, count);
    entering.push_back({.x = own, .weight = experts[e].gate, .bias = {}, .y = gates.row_range(first, count)});
    entering.push_back({.x = own, .weight = experts[e].up, .bias = {}, .y = ups.row_range(first, count)});
    leaving.push_back({.x = gates.row_range(first, count),
                       .weight = experts[e].down,
                       .bias = {},
                       .y = outputs.row_range(first, count)});
  }
  linear_all(cpu, entering);
  silu_mul(cpu, gates, ups, gates);
  linear_all(cpu, leaving);
  const size_t bytes = x.cols * size_of(x.dtype);
  cpu.team().run((slots + kScatteredRows - 1) / kScatteredRows, [&](size_t task) {
    const size_t end = std::min(slots, (task + 1) * kScatteredRows);
    for (size_t i = task * kScatteredRows; i < end; ++i) {
      std::memcpy(slot_outputs.at(groups.slot[i], 0), outputs.at(i, 0), bytes);
    }
  });
}

void combine_experts(const Cpu& cpu, const Routing& routing, ConstMatrix slot_outputs, ConstMatrix shared,
                     Matrix y) {
  CHECK(slot_outputs.rows == routing.rows * routing.per_row && slot_outputs.cols == y.cols,
        "slot outputs [{}, {}]", slot_outputs.rows, slot_outputs.cols);
  CHECK(y.rows == routing.rows, "y [{}, {}]", y.rows, y.cols);
  CHECK(shared.data == nullptr || (shared.rows == y.rows && shared.cols == y.cols), "shared [{}, {}]",
        shared.rows, shared.cols);
  cpu.team().run(y.rows, [&](size_t r) {
    std::vector<float> sum(y.cols, 0.0F);
    for (size_t i = 0; i < routing.per_row; ++i) {
      const size_t slot = r * routing.per_row + i;
      cpu.ops().accumulate(sum.data(), routing.weight[slot], slot_outputs.at(slot, 0), slot_outputs.dtype,
                           y.cols);
    }
    if (shared.data != nullptr) cpu.ops().accumulate(sum.data(), 1.0F, shared.at(r, 0), shared.dtype, y.cols);
    cpu.ops().convert(sum.data(), DType::kF32, y.at(r, 0), y.dtype, y.cols);
  });
}

}  // namespace baton::kernels
