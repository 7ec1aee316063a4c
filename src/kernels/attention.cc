#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/ops.h"

namespace baton::kernels {
namespace {

constexpr size_t kBlockUnit = 16;
constexpr size_t kTasksPerThread = 4;  // below this many, the spans of a row become tasks of their own
constexpr size_t kStoredRows = 64;     // of a task that fills the cache
constexpr float kLog2E = 1.44269504088896341F;

void check_layer(const KvLayer& kv) {
  CHECK(kv.block_size > 0 && kv.block_size % kBlockUnit == 0, "block size {}, a multiple of 16",
        kv.block_size);
  CHECK(kv.head_dim > 0 && kv.head_dim % kBlockUnit == 0 && kv.head_dim <= kHeadDimMax, "head_dim {}",
        kv.head_dim);
  CHECK(kv.kv_heads > 0 && (kv.dtype == DType::kBf16 || kv.dtype == DType::kF32), "{} kv heads of {}",
        kv.kv_heads, dtype_name(kv.dtype));
}

void check_spans(const KvLayer& kv, std::span<const RowSpan> spans, size_t rows) {
  for (const RowSpan& span : spans) {
    CHECK(span.first_row + span.rows <= rows, "rows [{}, {}) of {}", span.first_row,
          span.first_row + span.rows, rows);
    CHECK(span.first_position + span.rows <= span.blocks.size() * kv.block_size,
          "positions [{}, {}) in {} blocks of {}", span.first_position, span.first_position + span.rows,
          span.blocks.size(), kv.block_size);
  }
}

std::byte* key_of(const KvLayer& kv, BlockId block, size_t head, size_t token) {
  return kv.base + index(block) * kv.block_stride +
         (head * kv.block_size + token) * kv.head_dim * size_of(kv.dtype);
}

size_t value_offset(const KvLayer& kv) {
  return kv.kv_heads * kv.block_size * kv.head_dim * size_of(kv.dtype);
}

// One task: neighbouring rows of a sequence and one kv head, over some or all of the spans before them.
struct Task {
  const RowSpan* rows = nullptr;
  size_t first = 0;  // within rows->rows
  size_t count = 0;
  size_t head = 0;
  size_t first_span = 0;
  size_t spans = 0;
  size_t state = 0;  // of the first vector of the first span, for a split task; kWhole otherwise

  size_t position() const { return rows->first_position + first; }
  size_t last_position() const { return position() + count - 1; }
};
constexpr size_t kWhole = SIZE_MAX;

size_t spans_up_to(size_t position) { return position / kSpan + 1; }

std::vector<Task> cut_rows(const Attention& args, size_t group) {
  const size_t rows_max = std::max<size_t>(1, kQueryVectorsMax / group);
  std::vector<Task> tasks;
  for (const RowSpan& span : args.spans) {
    for (size_t first = 0; first < span.rows; first += rows_max) {
      for (size_t head = 0; head < args.kv.kv_heads; ++head) {
        Task task{
            .rows = &span, .first = first, .count = std::min(rows_max, span.rows - first), .head = head};
        task.spans = spans_up_to(task.last_position());
        task.state = kWhole;
        tasks.push_back(task);
      }
    }
  }
  // The longest first, so that no thread ends with a long one.
  std::sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.spans > b.spans; });
  return tasks;
}

AttendBlock block_of(const Attention& args, const Task& task, size_t span) {
  const KvLayer& kv = args.kv;
  const size_t group = args.q.cols / kv.head_dim / kv.kv_heads;
  static_assert(sizeof(BlockId) == sizeof(uint32_t));
  return {.head_base = key_of(kv, BlockId{0}, task.head, 0),
          .blocks = reinterpret_cast<const uint32_t*>(task.rows->blocks.data()),
          .block_stride = kv.block_stride,
          .value_offset = value_offset(kv),
          .block_size = kv.block_size,
          .head_dim = kv.head_dim,
          .q = args.q.at(task.rows->first_row + task.first, task.head * group * kv.head_dim),
          .q_stride = args.q.stride,
          .rows = task.count,
          .group = group,
          .first_position = task.position(),
          .begin = span * kSpan,
          .end = (span + 1) * kSpan,
          .scale_log2e = args.scale * kLog2E,
          .type = kv.dtype};
}

// States of many vectors side by side: m, l and o each contiguous.
struct States {
  float* m;
  float* l;
  float* o;
  size_t head_dim;

  SoftmaxState at(size_t vector) const { return {m + vector, l + vector, o + vector * head_dim}; }
};

void finish(const Cpu& cpu, const Attention& args, const Task& task, const States& states,
            size_t first_state) {
  const size_t dim = args.kv.head_dim;
  const size_t group = args.q.cols / dim / args.kv.kv_heads;
  for (size_t v = 0; v < task.count * group; ++v) {
    const size_t row = task.rows->first_row + task.first + v / group;
    void* out = args.out.at(row, (task.head * group + v % group) * dim);
    cpu.ops().finish_state(states.at(first_state + v), out, args.kv.dtype, dim);
  }
}

// Merges `right` (span number `span`) into `left` for the vectors that reach into that span.
void merge(const Cpu& cpu, const Task& task, size_t group, size_t span, const States& left, size_t left_at,
           const States& right, size_t right_at) {
  for (size_t v = 0; v < task.count * group; ++v) {
    if (task.position() + v / group < span * kSpan) continue;
    cpu.ops().merge_state(left.at(left_at + v), right.at(right_at + v), left.head_dim);
  }
}

void run_whole(const Cpu& cpu, const Attention& args, const Task& task) {
  alignas(64) float numbers[2][kQueryVectorsMax * (kHeadDimMax + 2)];
  const size_t dim = args.kv.head_dim;
  const size_t group = args.q.cols / dim / args.kv.kv_heads;
  const auto states = [&](float* p) {
    return States{p, p + kQueryVectorsMax, p + 2 * kQueryVectorsMax, dim};
  };
  const States total = states(numbers[0]);
  const States part = states(numbers[1]);
  for (size_t s = 0; s < task.spans; ++s) {
    cpu.ops().attend(block_of(args, task, s), (s == 0 ? total : part).at(0));
    if (s > 0) merge(cpu, task, group, s, total, 0, part, 0);
  }
  finish(cpu, args, task, total, 0);
}

// Every span of every task on its own, then the merges. For few rows over long contexts.
void run_split(const Cpu& cpu, const Attention& args, std::vector<Task>& tasks, size_t group) {
  size_t vectors = 0;
  std::vector<Task> parts;
  for (Task& task : tasks) {
    task.state = vectors;
    for (size_t s = 0; s < task.spans; ++s) {
      Task part = task;
      part.first_span = s;
      part.state = vectors;
      parts.push_back(part);
      vectors += task.count * group;
    }
  }
  const size_t dim = args.kv.head_dim;
  const size_t numbers = (vectors + kBlockUnit - 1) / kBlockUnit * kBlockUnit;
  float* p = reinterpret_cast<float*>(cpu.scratch(numbers * (dim + 2) * sizeof(float)));
  const States states{p, p + numbers, p + 2 * numbers, dim};
  cpu.team().run(parts.size(), [&](size_t i) {
    cpu.ops().attend(block_of(args, parts[i], parts[i].first_span), states.at(parts[i].state));
  });
  cpu.team().run(tasks.size(), [&](size_t i) {
    const Task& task = tasks[i];
    for (size_t s = 1; s < task.spans; ++s) {
      merge(cpu, task, group, s, states, task.state, states, task.state + s * task.count * group);
    }
    finish(cpu, args, task, states, task.state);
  });
}

// Rows [first, first + count) of a sequence into the cache.
void store_rows(const KvLayer& kv, const RowSpan& span, size_t first, size_t count, ConstMatrix k,
                ConstMatrix v) {
  const size_t bytes = kv.head_dim * size_of(kv.dtype);
  for (size_t r = first; r < first + count; ++r) {
    const size_t position = span.first_position + r;
    for (size_t head = 0; head < kv.kv_heads; ++head) {
      std::byte* key = key_of(kv, span.blocks[position / kv.block_size], head, position % kv.block_size);
      std::memcpy(key, k.at(span.first_row + r, head * kv.head_dim), bytes);
      std::memcpy(key + value_offset(kv), v.at(span.first_row + r, head * kv.head_dim), bytes);
    }
  }
}

}  // namespace

void store_kv(const Cpu& cpu, const KvLayer& kv, std::span<const RowSpan> spans, ConstMatrix k,
              ConstMatrix v) {
  check_layer(kv);
  check_spans(kv, spans, k.rows);
  CHECK(k.rows == v.rows && k.cols == kv.kv_heads * kv.head_dim && v.cols == k.cols, "k [{}, {}], v [{}, {}]",
        k.rows, k.cols, v.rows, v.cols);
  CHECK(k.dtype == kv.dtype && v.dtype == kv.dtype, "k {}, v {}, cache {}", dtype_name(k.dtype),
        dtype_name(v.dtype), dtype_name(kv.dtype));
  // A task is a part of a sequence's rows: the parts of span i are numbered from first_part[i] on.
  std::vector<size_t> first_part{0};
  for (const RowSpan& span : spans) {
    first_part.push_back(first_part.back() + (span.rows + kStoredRows - 1) / kStoredRows);
  }
  cpu.team().run(first_part.back(), [&](size_t part) {
    const auto after = std::upper_bound(first_part.begin(), first_part.end(), part);
    const size_t i = static_cast<size_t>(after - first_part.begin()) - 1;
    const size_t first = (part - first_part[i]) * kStoredRows;
    store_rows(kv, spans[i], first, std::min(kStoredRows, spans[i].rows - first), k, v);
  });
}

void attention(const Cpu& cpu, const Attention& args) {
  check_layer(args.kv);
  check_spans(args.kv, args.spans, args.q.rows);
  const size_t per_head = args.kv.kv_heads * args.kv.head_dim;
  CHECK(args.q.cols % per_head == 0 && args.q.cols > 0, "q cols {}, kv heads x head_dim {}", args.q.cols,
        per_head);
  CHECK(args.out.rows == args.q.rows && args.out.cols == args.q.cols, "out [{}, {}]", args.out.rows,
        args.out.cols);
  CHECK(args.q.dtype == args.kv.dtype && args.out.dtype == args.kv.dtype, "q {}, out {}, cache {}",
        dtype_name(args.q.dtype), dtype_name(args.out.dtype), dtype_name(args.kv.dtype));
  const size_t group = args.q.cols / per_head;
  CHECK(group <= kQueryVectorsMax, "{} query heads per kv head, at most {}", group, kQueryVectorsMax);
  std::vector<Task> tasks = cut_rows(args, group);
  const size_t threads = cpu.team().threads();
  const bool few = threads > 1 && tasks.size() < kTasksPerThread * threads;
  if (few && !tasks.empty() && tasks.front().spans > 1) return run_split(cpu, args, tasks, group);
  cpu.team().run(tasks.size(), [&](size_t i) { run_whole(cpu, args, tasks[i]); });
}

}  // namespace baton::kernels
