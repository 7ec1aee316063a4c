// A new engine is stepped through what another one was told.
#include <fmt/format.h>

#include <algorithm>

#include "engine/recorder.h"

namespace baton::engine {
namespace {

// Says what the recorded pass took: the engine asks once before and once after a pass.
class ReplayClock final : public Clock {
 public:
  Time now() const override { return Time{Duration{(asked_++ % 2 == 0) ? 0 : took_.count()}}; }
  void expect(Duration took) {
    took_ = took;
    asked_ = 0;
  }

 private:
  mutable uint64_t asked_ = 0;
  Duration took_{0};
};

Result<void> check_fit(const RecordHead& head, const model::ModelInfo& info, const kv::KvArena& arena) {
  if (info.fingerprint != head.fingerprint) {
    return fail(Code::kInvalid, fmt::format("replay: the model's fingerprint is {}, expected {}",
                                            info.fingerprint, head.fingerprint));
  }
  if (!(arena.layout() == head.layout) || arena.blocks() != head.arena_blocks) {
    return fail(Code::kInvalid,
                fmt::format("replay: the arena has {} blocks of {} tokens, expected {} of {}", arena.blocks(),
                            arena.layout().block_tokens, head.arena_blocks, head.layout.block_tokens));
  }
  return check_config(head.config, info, arena);
}

// Computes the KV that a peer sent, in pieces of what the model takes.
void compute_landed(model::LanguageModel& model, kv::KvArena& arena, std::span<const TokenId> tokens,
                    uint32_t from, std::span<const BlockId> blocks) {
  for (uint32_t at = from; at < tokens.size();) {
    const uint32_t rows = std::min(model.batch_rows_max(), static_cast<uint32_t>(tokens.size()) - at);
    const model::SequenceRows sequence{.rows = rows, .first_position = at, .blocks = blocks};
    model.forward(
        {.tokens = tokens.subspan(at, rows), .sequences = std::span(&sequence, 1), .logit_rows = {}}, arena,
        [](uint32_t) { return true; });
    at += rows;
  }
}

uint64_t count_tokens(const Outbox& outbox) {
  uint64_t tokens = 0;
  for (const Answer& answer : outbox.answers) {
    if (const auto* event = std::get_if<TokensEvent>(&answer)) tokens += event->tokens.size();
  }
  return tokens;
}

}  // namespace

Result<ReplayReport> replay(const Record& record, model::LanguageModel& model, kv::KvArena& arena) {
  TRY_DO(check_fit(record.head, model.info(), arena));
  ReplayClock clock;
  const RecordedStep* current = nullptr;
  Surroundings surroundings;
  surroundings.clock = &clock;
  surroundings.poll_interrupt = [&](uint32_t layer) { return current->pass.interrupted_after == layer; };
  surroundings.refill = [&](std::span<const TokenId> tokens, uint32_t from, std::span<const BlockId> blocks) {
    compute_landed(model, arena, tokens, from, blocks);
  };
  Engine engine(record.head.config, model, arena, std::move(surroundings));
  ReplayReport report;
  for (const RecordedStep& step : record.steps) {
    current = &step;
    clock.expect(step.pass.took);
    const Outbox outbox = engine.step(step.inbox, step.now);
    report.tokens += count_tokens(outbox);
    if (step.ended && hash_outbox(outbox) != step.outbox_hash && !report.first_difference) {
      report.first_difference = report.steps;
    }
    ++report.steps;
  }
  return report;
}

}  // namespace baton::engine
