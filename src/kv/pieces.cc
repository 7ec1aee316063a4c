#include "kv/pieces.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace baton::kv {
namespace {

size_t blocks_between(uint32_t first, uint32_t end, uint32_t block_tokens) {
  return (size_t{end} + block_tokens - 1) / block_tokens - first / block_tokens;
}

// The rows of a part: row r begins at start + r * stride in the arena's data.
struct Rows {
  size_t start;
  size_t stride;
};
Rows rows_of(const KvArena& arena, const BlockPart& part) {
  const KvLayout& layout = arena.layout();
  CHECK(index(part.block) < arena.blocks() && part.tokens > 0 &&
            part.first + part.tokens <= layout.block_tokens,
        "tokens {} to {} of block {}", part.first, part.first + part.tokens, index(part.block));
  const size_t token_bytes = layout.head_dim * size_of(layout.dtype);
  return {layout.offset(0, part.block) + part.first * token_bytes, layout.block_tokens * token_bytes};
}

size_t row_bytes_of(const KvArena& arena, const BlockPart& part) {
  return part.tokens * arena.layout().head_dim * size_of(arena.layout().dtype);
}

void check_range(const KvArena& arena, const BlockPart& part, size_t offset, size_t bytes) {
  const size_t all = arena.layout().layers * arena.layout().layer_bytes(part.tokens);
  CHECK(offset <= all && bytes <= all - offset, "bytes {} to {} of {}", offset, offset + bytes, all);
}

bool is_whole(const KvArena& arena, const BlockPart& part) {
  return part.tokens == arena.layout().block_tokens;
}

// visit(row, first byte in it, bytes, bytes before) for each run of a row that bytes [offset, offset + bytes)
// touch.
template <class Visit>
void for_each_run(size_t row_bytes, size_t offset, size_t bytes, const Visit& visit) {
  size_t row = offset / row_bytes;
  size_t at = offset % row_bytes;
  for (size_t done = 0; done < bytes;) {
    const size_t run = std::min(row_bytes - at, bytes - done);
    visit(row, at, run, done);
    done += run;
    at = 0;
    ++row;
  }
}

}  // namespace

size_t Move::source_blocks() const { return blocks_between(first, end, source_tokens); }
size_t Move::target_blocks() const { return blocks_between(first, end, target_tokens); }

Move move_of(uint32_t first, uint32_t total, uint32_t source_tokens, uint32_t target_tokens) {
  CHECK(first % target_tokens == 0 && first < total, "positions {} to {}, blocks of {}", first, total,
        target_tokens);
  const auto rounded = [&](uint32_t block) { return (uint64_t{total} + block - 1) / block * block; };
  const uint64_t end = std::min(rounded(source_tokens), rounded(target_tokens));
  CHECK(end <= UINT32_MAX, "{} positions", total);
  return {first, static_cast<uint32_t>(end), source_tokens, target_tokens};
}

PieceCursor::PieceCursor(const Move& move) : move_(move) {
  piece_.first = move.first;
  cut();
}

void PieceCursor::next() {
  CHECK(!is_done(), "piece {} is the last one", piece_.number);
  piece_.first += piece_.tokens;
  ++piece_.number;
  cut();
}

void PieceCursor::cut() {
  const uint32_t at = piece_.first;
  piece_.source = at / move_.source_tokens - move_.first / move_.source_tokens;
  piece_.target = at / move_.target_tokens - move_.first / move_.target_tokens;
  piece_.source_token = at % move_.source_tokens;
  piece_.target_token = at % move_.target_tokens;
  piece_.tokens = std::min(
      {move_.source_tokens - piece_.source_token, move_.target_tokens - piece_.target_token, move_.end - at});
}

std::span<const std::byte> find_whole(const KvArena& arena, const BlockPart& part, size_t offset,
                                      size_t bytes) {
  check_range(arena, part, offset, bytes);
  if (!is_whole(arena, part)) return {};
  return {arena.data() + rows_of(arena, part).start + offset, bytes};
}

std::span<std::byte> find_whole(KvArena& arena, const BlockPart& part, size_t offset, size_t bytes) {
  check_range(arena, part, offset, bytes);
  if (!is_whole(arena, part)) return {};
  return {arena.data() + rows_of(arena, part).start + offset, bytes};
}

void gather(const KvArena& arena, const BlockPart& part, size_t offset, std::span<std::byte> to) {
  check_range(arena, part, offset, to.size());
  const Rows rows = rows_of(arena, part);
  const auto copy = [&](size_t row, size_t at, size_t bytes, size_t done) {
    std::memcpy(to.data() + done, arena.data() + rows.start + row * rows.stride + at, bytes);
  };
  for_each_run(row_bytes_of(arena, part), offset, to.size(), copy);
}

void scatter(KvArena& arena, const BlockPart& part, size_t offset, std::span<const std::byte> from) {
  check_range(arena, part, offset, from.size());
  const Rows rows = rows_of(arena, part);
  const auto copy = [&](size_t row, size_t at, size_t bytes, size_t done) {
    std::memcpy(arena.data() + rows.start + row * rows.stride + at, from.data() + done, bytes);
  };
  for_each_run(row_bytes_of(arena, part), offset, from.size(), copy);
}

void copy_part(KvArena& to, const BlockPart& target, const KvArena& from, const BlockPart& source,
               size_t offset, size_t bytes) {
  CHECK(target.tokens == source.tokens, "{} tokens to {}", source.tokens, target.tokens);
  check_range(to, target, offset, bytes);
  const Rows reading = rows_of(from, source);
  const Rows writing = rows_of(to, target);
  if (is_whole(to, target) && is_whole(from, source)) {
    std::memcpy(to.data() + writing.start + offset, from.data() + reading.start + offset, bytes);
    return;
  }
  const auto copy = [&](size_t row, size_t at, size_t run, size_t /*done*/) {
    std::memcpy(to.data() + writing.start + row * writing.stride + at,
                from.data() + reading.start + row * reading.stride + at, run);
  };
  for_each_run(row_bytes_of(to, target), offset, bytes, copy);
}

}  // namespace baton::kv
