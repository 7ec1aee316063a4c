// Everything behind the door of one instance, in the order in which it is made and the reverse of which it
// ends: checkpoint, kernels, model, arena, recorder, engine and its thread, mover and its thread. Made by the
// loader thread while the door already answers 503; handed to the io thread whole.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "engine/recorder.h"
#include "http/io_loop.h"
#include "kernels/cpu.h"
#include "kv/arena.h"
#include "model/language_model.h"
#include "options/serve_options.h"
#include "serve/engine_thread.h"
#include "serve/served_model.h"
#include "transfer/transfer_thread.h"

namespace baton::serve {

class LoadedInstance {
 public:
  // Loads what `options` name. `deliver` gets the engine's answers on the engine thread. kInvalid, kNotFound,
  // kCorrupt, kExhausted: one sentence for the operator.
  static Result<std::unique_ptr<LoadedInstance>> load(
      const options::ServeOptions& options, std::function<void(std::vector<engine::Answer>)> deliver);
  ~LoadedInstance();

  const ServedModel& model() const { return *model_; }
  EngineThread& engine_thread() { return *engine_thread_; }
  const std::string& advertised_host() const { return advertised_host_; }
  uint16_t side_channel_port() const { return side_channel_port_; }

 private:
  LoadedInstance() = default;
  Result<void> load_text(const options::ServeOptions& options);
  Result<void> load_model(const options::ServeOptions& options);
  Result<void> make_arena(const options::ServeOptions& options);
  void make_served_model(const options::ServeOptions& options);
  Result<void> start_transfer(const options::ServeOptions& options);
  Result<void> start_engine(const options::ServeOptions& options,
                            std::function<void(std::vector<engine::Answer>)> deliver);
  void warm_up();
  void measure_speeds(const options::ServeOptions& options);
  void verify_fingerprint_later();

  SteadyClock clock_;
  Beacon beacon_;
  std::shared_ptr<const checkpoint::Checkpoint> checkpoint_;
  checkpoint::GenerationConfig generation_;  // what --generation-config names
  std::optional<text::Tokenizer> tokenizer_;
  std::optional<text::ChatTemplate> chat_template_;
  std::string chat_template_missing_;
  std::unique_ptr<ServedModel> model_;
  std::unique_ptr<kernels::Cpu> cpu_;
  std::unique_ptr<model::LanguageModel> language_model_;
  Incarnation incarnation_ = random_id<Incarnation>();
  std::unique_ptr<kv::KvArena> arena_;
  std::unique_ptr<engine::Recorder> recorder_;
  std::unique_ptr<engine::Engine> engine_;
  std::string advertised_host_;
  uint16_t side_channel_port_ = 0;
  std::unique_ptr<transfer::TransferThread> transfer_thread_;
  std::unique_ptr<EngineThread> engine_thread_;
  std::atomic<EngineThread*> engine_for_events_{nullptr};  // engine_thread_, once it is there
  std::atomic<bool> ending_{false};
  std::thread fingerprint_thread_;
};

}  // namespace baton::serve
