#include "serve/speeds.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/ids.h"
#include "transfer/source.h"
#include "transfer/target.h"
#include "transfer/tcp/socket_mover.h"

namespace baton::serve {
namespace {

constexpr int kTimes = 2;  // of each; the shortest counts
constexpr Duration kPoll = std::chrono::milliseconds(1);

// ---- prefill ----

class Prefills {
 public:
  Prefills(model::LanguageModel& model, kv::KvArena& arena, const Clock& clock)
      : model_(model), arena_(arena), clock_(clock) {
    for (uint32_t i = 0; i < kProbeTokensMax; ++i)
      tokens_.push_back(static_cast<TokenId>(i * 7919 % model.info().vocab_size));  // no two experts' alone
    for (uint32_t i = 0; i < arena.layout().blocks_for(kProbeTokensMax); ++i) blocks_.push_back(BlockId{i});
  }

  uint32_t tokens_max() const {
    const uint64_t held = uint64_t{arena_.blocks()} * arena_.layout().block_tokens;
    return static_cast<uint32_t>(std::min({uint64_t{kProbeTokensMax}, uint64_t{model_.batch_rows_max()}, held,
                                           uint64_t{model_.info().max_position}}));
  }
  Duration shortest(uint32_t count) {
    Duration least = step(count);
    for (int i = 1; i < kTimes; ++i) least = std::min(least, step(count));
    return least;
  }
  Duration step(uint32_t count) {
    const Time begin = clock_.now();
    const uint32_t last = count - 1;
    const model::SequenceRows sequence{.rows = count,
                                       .first_position = 0,
                                       .blocks = std::span(blocks_).first(arena_.layout().blocks_for(count))};
    model_.forward({.tokens = std::span(tokens_).first(count),
                    .sequences = std::span(&sequence, 1),
                    .logit_rows = std::span(&last, 1)},
                   arena_, [](uint32_t) { return true; });
    static_cast<void>(model_.logits(0, 1));
    return std::max(clock_.now() - begin, Duration{1});
  }

 private:
  model::LanguageModel& model_;
  kv::KvArena& arena_;
  const Clock& clock_;
  std::vector<TokenId> tokens_;
  std::vector<BlockId> blocks_;
};

// ---- hand-over ----

struct End {
  Incarnation incarnation = random_id<Incarnation>();
  std::unique_ptr<kv::KvArena> arena;
  std::unique_ptr<transfer::tcp::SocketMover> mover;
};

Result<End> make_end(const kv::KvLayout& layout, uint32_t blocks, transfer::TransportChoice choice,
                     bool listens) {
  End end;
  TRY(end.arena, kv::KvArena::create(layout, blocks, end.incarnation));
  end.arena->touch_all();
  transfer::tcp::SocketMoverConfig config;
  if (listens) config.listen = net::Address{"127.0.0.1", 0};
  config.identity = {.engine_id = listens ? "probe-p" : "probe-d",
                     .incarnation = end.incarnation,
                     .fingerprint = "probe",
                     .layout = layout,
                     .tp_size = 1,
                     .dp_size = 1,
                     .boot_id = transfer::tcp::boot_id(),
                     .max_model_len = 1};
  // A fabric is not tried on oneself.
  config.choice = choice == transfer::TransportChoice::kUcx ? transfer::TransportChoice::kAuto : choice;
  TRY(end.mover, transfer::tcp::SocketMover::create(std::move(config), *end.arena));
  return end;
}

std::vector<BlockId> first_blocks(uint32_t count) {
  std::vector<BlockId> out;
  for (uint32_t i = 0; i < count; ++i) out.push_back(BlockId{i});
  return out;
}

// P on a thread of its own, as it would be in a process of its own: its wakes are part of what is measured.
class ProbeSource {
 public:
  explicit ProbeSource(End& end) : end_(end), source_({.incarnation = end.incarnation}, *end.arena) {}
  ~ProbeSource() {
    stopped_ = true;
    if (thread_.joinable()) thread_.join();
  }
  ProbeSource(const ProbeSource&) = delete;
  ProbeSource& operator=(const ProbeSource&) = delete;

  HandoverId hold(uint32_t blocks) {
    const auto id = random_id<HandoverId>();
    source_.hold({id, first_blocks(blocks), blocks * end_.arena->layout().block_tokens, "probe"},
                 clock_.now());
    return id;
  }
  void start() {
    thread_ = std::thread([this] {
      while (!stopped_) {
        for (const transfer::MoverEvent& event : end_.mover->poll(kPoll))
          source_.on_event(event, clock_.now());
        source_.on_time(clock_.now());
        for (transfer::Command& command : source_.take_commands()) end_.mover->execute(std::move(command));
        static_cast<void>(source_.take_released());
      }
    });
  }

 private:
  End& end_;
  transfer::Source source_;
  SteadyClock clock_;
  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

struct Taken {
  HandoverId handover;
  uint32_t blocks = 0;
};

// D fetches a prompt of P.
Result<Duration> fetch(const End& p, End& d, transfer::Target& target, const Taken& taken) {
  const SteadyClock clock;
  const Time begin = clock.now();
  const auto transfer = random_id<TransferId>();
  target.expect({.transfer = transfer,
                 .handover = taken.handover,
                 .host = "127.0.0.1",
                 .port = p.mover->port(),
                 .engine_id = "probe-p",
                 .incarnation = p.incarnation,
                 .tokens = taken.blocks * d.arena->layout().block_tokens,
                 .prompt_hash = "probe",
                 .deadline = begin + kProbePatience},
                begin);
  target.land(transfer, first_blocks(taken.blocks), 0, begin);
  while (true) {
    for (transfer::Command& command : target.take_commands()) d.mover->execute(std::move(command));
    for (const transfer::MoverEvent& event : d.mover->poll(kPoll)) target.on_event(event, clock.now());
    target.on_time(clock.now());
    for (const transfer::Outcome& outcome : target.take_outcomes()) {
      if (outcome.error) return Failure(*outcome.error);
      return std::max(clock.now() - begin, Duration{1});
    }
  }
}

}  // namespace

Line line_through(double few, Duration took_few, double many, Duration took_many) {
  CHECK(many > 0 && took_many > Duration{0}, "nothing was measured");
  if (many <= few || took_many <= took_few) return {Duration{0}, many / seconds(took_many)};
  const double per_s = (many - few) / seconds(took_many - took_few);
  const auto of_few = Duration(static_cast<int64_t>(few / per_s * 1e9));
  return {std::max(took_few - of_few, Duration{0}), per_s};
}

void measure_prefill(model::LanguageModel& model, kv::KvArena& arena, const Clock& clock,
                     api::Speeds& speeds) {
  Prefills prefills(model, arena, clock);
  const uint32_t few = std::min(kProbeTokensMin, prefills.tokens_max());
  prefills.step(few);  // faults in what no later step pays for
  const Duration took_few = prefills.shortest(few);
  const double planned = static_cast<double>(few) * seconds(kProbeStepMax) / seconds(took_few);
  const auto many =
      static_cast<uint32_t>(std::clamp<double>(planned, few, static_cast<double>(prefills.tokens_max())));
  const Duration took_many = many == few ? took_few : prefills.shortest(many);
  const Line line = line_through(few, took_few, many, took_many);
  speeds.prefill_step = line.fixed;
  speeds.prefill_tokens_per_s = line.per_s;
}

Result<void> measure_handover(const kv::KvLayout& layout, transfer::TransportChoice choice,
                              api::Speeds& speeds) {
  const size_t block_bytes = layout.block_bytes();
  const auto many =
      static_cast<uint32_t>(std::clamp<size_t>(kProbeBytesMax / block_bytes, 2, kProbeBlocksMax));
  TRY(End p, make_end(layout, many, choice, true));
  TRY(End d, make_end(layout, many, choice, false));
  transfer::Target target({.incarnation = d.incarnation}, *d.arena);
  ProbeSource source(p);
  std::vector<Taken> all = {{source.hold(1), 1}};  // connects
  for (const uint32_t blocks : {1U, many}) {
    for (int i = 0; i < kTimes; ++i) all.push_back({source.hold(blocks), blocks});
  }
  source.start();
  Duration took_one = Duration::max();
  Duration took_many = Duration::max();
  for (size_t i = 0; i < all.size(); ++i) {
    TRY(const Duration took, fetch(p, d, target, all[i]));
    if (i == 0) continue;
    Duration& least = all[i].blocks == 1 ? took_one : took_many;
    least = std::min(least, took);
  }
  const Line line = line_through(static_cast<double>(block_bytes), took_one,
                                 static_cast<double>(block_bytes) * many, took_many);
  speeds.handover = line.fixed;
  speeds.handover_bytes_per_s = line.per_s;
  speeds.kv_bytes_per_token = static_cast<int64_t>(block_bytes / layout.block_tokens);
  return {};
}

}  // namespace baton::serve
