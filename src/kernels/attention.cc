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
  CHECK(kv.value_dim > 0 && kv.value_dim % kBlockUnit == 0 && kv.value_dim <= kValueDimMax, "value_dim {}",
        kv.value_dim);
  CHECK(!kv.values_in_keys || (kv.kv_heads == 1 && kv.value_dim <= kv.head_dim),
        "{} values within {} key elements of {} heads", kv.value_dim, kv.head_dim, kv.kv_heads);
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

std::byte* value_of(const KvLayer& kv, BlockId block, size_t head, size_t token) {
  if (kv.values_in_keys) return key_of(kv, block, head, token);
  const size_t keys = kv.kv_heads * kv.block_size * kv.head_dim;
  return kv.base + index(block) * kv.block_stride +
         (keys + (head * kv.block_size + token) * kv.value_dim) * size_of(kv.dtype);
}

// One task: neighbouring rows of a sequence and query heads that share one kv head, over some or all of the
// spans before them.
struct Task {
  const RowSpan* rows = nullptr;
  size_t first = 0;  // within rows->rows
  size_t count = 0;
  size_t head = 0;         // of K and V
  size_t first_query = 0;  // head of q
  size_t queries = 0;      // heads of q
  size_t first_span = 0;
  size_t spans = 0;
  size_t state = 0;  // of the first vector of the first span, for a split task; kWhole otherwise

  size_t position() const { return rows->first_position + first; }
  size_t last_position() const { return position() + count - 1; }
  size_t vectors() const { return count * queries; }
};
constexpr size_t kWhole = SIZE_MAX;

size_t spans_up_to(size_t position) { return position / kSpan + 1; }

std::vector<Task> cut_rows(const Attention& args, size_t group) {
  const size_t rows_max = std::max<size_t>(1, kQueryVectorsMax / group);
  std::vector<Task> tasks;
  for (const RowSpan& span : args.spans) {
    for (size_t first = 0; first < span.rows; first += rows_max) {
      for (size_t query = 0; query < args.kv.kv_heads * group;) {
        Task task{.rows = &span,
                  .first = first,
                  .count = std::min(rows_max, span.rows - first),
                  .head = query / group,
                  .first_query = query,
                  .queries = std::min(kQueryVectorsMax, group - query % group)};
        task.spans = spans_up_to(task.last_position());
        task.state = kWhole;
        query += task.queries;
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
  static_assert(sizeof(BlockId) == sizeof(uint32_t));
  return {.keys = key_of(kv, BlockId{0}, task.head, 0),
          .values = value_of(kv, BlockId{0}, task.head, 0),
          .blocks = reinterpret_cast<const uint32_t*>(task.rows->blocks.data()),
          .block_stride = kv.block_stride,
          .block_size = kv.block_size,
          .key_dim = kv.head_dim,
          .value_dim = kv.value_dim,
          .value_stride = kv.values_in_keys ? kv.head_dim : kv.value_dim,
          .q = args.q.at(task.rows->first_row + task.first, task.first_query * kv.head_dim),
          .q_stride = args.q.stride,
          .rows = task.count,
          .group = task.queries,
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
  size_t value_dim;

  SoftmaxState at(size_t vector) const { return {m + vector, l + vector, o + vector * value_dim}; }
};

void finish(const Cpu& cpu, const Attention& args, const Task& task, const States& states,
            size_t first_state) {
  const size_t dim = args.kv.value_dim;
  for (size_t v = 0; v < task.vectors(); ++v) {
    const size_t row = task.rows->first_row + task.first + v / task.queries;
    void* out = args.out.at(row, (task.first_query + v % task.queries) * dim);
    cpu.ops().finish_state(states.at(first_state + v), out, args.kv.dtype, dim);
  }
}

// Merges `right` (span number `span`) into `left` for the vectors that reach into that span.
void merge(const Cpu& cpu, const Task& task, size_t span, const States& left, size_t left_at,
           const States& right, size_t right_at) {
  for (size_t v = 0; v < task.vectors(); ++v) {
    if (task.position() + v / task.queries < span * kSpan) continue;
    cpu.ops().merge_state(left.at(left_at + v), right.at(right_at + v), left.value_dim);
  }
}

void run_whole(const Cpu& cpu, const Attention& args, const Task& task) {
  alignas(64) float numbers[2][kQueryVectorsMax * (kValueDimMax + 2)];
  const size_t dim = args.kv.value_dim;
  const auto states = [&](float* p) {
    return States{p, p + kQueryVectorsMax, p + 2 * kQueryVectorsMax, dim};
  };
  const States total = states(numbers[0]);
  const States part = states(numbers[1]);
  for (size_t s = 0; s < task.spans; ++s) {
    cpu.ops().attend(block_of(args, task, s), (s == 0 ? total : part).at(0));
    if (s > 0) merge(cpu, task, s, total, 0, part, 0);
  }
  finish(cpu, args, task, total, 0);
}

// Every span of every task on its own, then the merges. For few rows over long contexts.
void run_split(const Cpu& cpu, const Attention& args, std::vector<Task>& tasks) {
  size_t vectors = 0;
  std::vector<Task> parts;
  for (Task& task : tasks) {
    task.state = vectors;
    for (size_t s = 0; s < task.spans; ++s) {
      Task part = task;
      part.first_span = s;
      part.state = vectors;
      parts.push_back(part);
      vectors += task.vectors();
    }
  }
  const size_t dim = args.kv.value_dim;
  const size_t numbers = (vectors + kBlockUnit - 1) / kBlockUnit * kBlockUnit;
  float* p = reinterpret_cast<float*>(cpu.scratch(numbers * (dim + 2) * sizeof(float)));
  const States states{p, p + numbers, p + 2 * numbers, dim};
  cpu.team().run(parts.size(), [&](size_t i) {
    cpu.ops().attend(block_of(args, parts[i], parts[i].first_span), states.at(parts[i].state));
  });
  cpu.team().run(tasks.size(), [&](size_t i) {
    const Task& task = tasks[i];
    for (size_t s = 1; s < task.spans; ++s) {
      merge(cpu, task, s, states, task.state, states, task.state + s * task.vectors());
    }
    finish(cpu, args, task, states, task.state);
  });
}

// Rows [first, first + count) of a sequence into the cache.
void store_rows(const KvLayer& kv, const RowSpan& span, size_t first, size_t count, ConstMatrix k,
                ConstMatrix v) {
  const size_t key_bytes = kv.head_dim * size_of(kv.dtype);
  const size_t value_bytes = kv.value_dim * size_of(kv.dtype);
  for (size_t r = first; r < first + count; ++r) {
    const size_t position = span.first_position + r;
    for (size_t head = 0; head < kv.kv_heads; ++head) {
      const BlockId block = span.blocks[position / kv.block_size];
      const size_t token = position % kv.block_size;
      std::memcpy(key_of(kv, block, head, token), k.at(span.first_row + r, head * kv.head_dim), key_bytes);
      if (kv.values_in_keys) continue;
      std::memcpy(value_of(kv, block, head, token), v.at(span.first_row + r, head * kv.value_dim),
                  value_bytes);
    }
  }
}

}  // namespace

void store_kv(const Cpu& cpu, const KvLayer& kv, std::span<const RowSpan> spans, ConstMatrix k,
              ConstMatrix v) {
  check_layer(kv);
  check_spans(kv, spans, k.rows);
  CHECK(k.cols == kv.kv_heads * kv.head_dim && k.dtype == kv.dtype, "k {} [{}, {}], cache {}",
        dtype_name(k.dtype), k.rows, k.cols, dtype_name(kv.dtype));
  CHECK(kv.values_in_keys ? v.data == nullptr
                          : v.rows == k.rows && v.cols == kv.kv_heads * kv.value_dim && v.dtype == kv.dtype,
        "v {} [{}, {}], k [{}, {}], cache {}", dtype_name(v.dtype), v.rows, v.cols, k.rows, k.cols,
        dtype_name(kv.dtype));
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
  CHECK(args.out.rows == args.q.rows && args.out.cols == args.q.cols / args.kv.head_dim * args.kv.value_dim,
        "out [{}, {}]", args.out.rows, args.out.cols);
  CHECK(args.q.dtype == args.kv.dtype && args.out.dtype == args.kv.dtype, "q {}, out {}, cache {}",
        dtype_name(args.q.dtype), dtype_name(args.out.dtype), dtype_name(args.kv.dtype));
  const size_t group = args.q.cols / per_head;
  std::vector<Task> tasks = cut_rows(args, group);
  const size_t threads = cpu.team().threads();
  const bool few = threads > 1 && tasks.size() < kTasksPerThread * threads;
  if (few && !tasks.empty() && tasks.front().spans > 1) return run_split(cpu, args, tasks);
  cpu.team().run(tasks.size(), [&](size_t i) { run_whole(cpu, args, tasks[i]); });
}

}  // namespace baton::kernels
