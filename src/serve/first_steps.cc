#include "serve/first_steps.h"

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "base/check.h"

namespace baton::serve {

uint32_t take_first_steps(model::LanguageModel& model, kv::KvArena& arena) {
  const kv::KvLayout& layout = arena.layout();
  const uint64_t held = uint64_t{arena.blocks()} * layout.block_tokens;
  const auto context = static_cast<uint32_t>(std::min<uint64_t>(held, model.info().max_position));
  CHECK(context >= 2, "a context of {} tokens", context);
  const uint32_t rows = std::min({kFirstPromptTokens, model.batch_rows_max(), context - 1});
  std::vector<BlockId> blocks;
  for (uint32_t i = 0; i < layout.blocks_for(rows + 1); ++i) blocks.push_back(BlockId{i});
  const std::array<TokenId, kFirstPromptTokens> tokens{};
  const auto step = [&](uint32_t first, uint32_t count) {
    const uint32_t last = count - 1;
    const model::SequenceRows sequence{.rows = count, .first_position = first, .blocks = blocks};
    model.forward({.tokens = std::span(tokens).first(count),
                   .sequences = std::span(&sequence, 1),
                   .logit_rows = std::span(&last, 1)},
                  arena, [](uint32_t) { return true; });
    static_cast<void>(model.logits(0, 1));
  };
  step(0, rows);
  step(rows, 1);
  return rows;
}

}  // namespace baton::serve
