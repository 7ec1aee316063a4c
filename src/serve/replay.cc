#include "serve/replay.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "checkpoint/checkpoint.h"
#include "engine/recorder.h"
#include "kernels/cpu.h"
#include "kv/arena.h"
#include "model/decoder.h"
#include "options/help.h"
#include "options/tool_options.h"
#include "serve/memory.h"

namespace baton::serve {
namespace {

Result<engine::ReplayReport> replay_file(const std::string& file, const std::string& directory) {
  TRY(const engine::Record record, engine::read_record_file(file));
  TRY(auto opened, checkpoint::Checkpoint::open(directory));
  const auto checkpoint = std::make_shared<const checkpoint::Checkpoint>(std::move(opened));
  TRY(const kernels::Isa isa, kernels::select_isa("auto"));
  const kernels::Cpu cpu(isa, usable_cores());
  TRY(auto loaded,
      model::load_decoder(checkpoint, cpu,
                          {.dtype = record.head.layout.dtype == DType::kF32 ? model::DTypeChoice::kFloat32
                                                                            : model::DTypeChoice::kAuto,
                           .block_tokens = record.head.layout.block_tokens,
                           .batch_rows_max = record.head.config.limits.batch_tokens_max,
                           .max_model_len = record.head.config.model_tokens_max}));
  TRY(const auto arena, kv::KvArena::create(record.head.layout, record.head.arena_blocks,
                                            record.head.config.handover.incarnation));
  return engine::replay(record, *loaded.model, *arena);
}

}  // namespace

int run_replay(std::span<const std::string> arguments) {
  const auto options = options::parse_replay(arguments);
  if (!options) {
    fmt::print(stderr, "baton replay: {}\n", options.error().message);
    return 2;
  }
  if (options->help) {
    fmt::print("{}", options::help_text(options::replay_command()));
    return 0;
  }
  const auto report = replay_file(options->file, options->model);
  if (!report) {
    fmt::print(stderr, "baton replay: {}\n", report.error().message);
    return 1;
  }
  if (!report->is_same()) {
    fmt::print("step {} of {} differs from the record\n", *report->first_difference, report->steps);
    return 1;
  }
  fmt::print("{} steps, {} tokens: equal to the bit\n", report->steps, report->tokens);
  return 0;
}

}  // namespace baton::serve
