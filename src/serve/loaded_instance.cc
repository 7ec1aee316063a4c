#include "serve/loaded_instance.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <utility>

#include "api/kv_transfer_params.h"
#include "api/resume.h"
#include "base/check.h"
#include "base/log.h"
#include "checkpoint/fingerprint.h"
#include "kv/sizing.h"
#include "model/decoder.h"
#include "net/interfaces.h"
#include "serve/first_steps.h"
#include "serve/memory.h"
#include "serve/speeds.h"
#include "transfer/tcp/socket_mover.h"

namespace baton::serve {
namespace {

constexpr uint32_t kLogitRowsMax = 64;
constexpr uint32_t kSeqsDefault = 128;          // vLLM's default on CPUs
constexpr uint32_t kBatchTokensDefault = 2048;  // the same
static_assert(options::kBatchTokensMax == engine::kRecordBatchTokensMax);

// A step has room for every answer in progress: the default of one limit yields to the other, given one.
uint32_t batch_tokens(const options::ServeOptions& options) {
  const auto seqs = static_cast<uint32_t>(options.max_num_seqs.value_or(0));
  if (options.max_num_batched_tokens) return static_cast<uint32_t>(*options.max_num_batched_tokens);
  return std::max(kBatchTokensDefault, seqs);
}
uint32_t seqs_max(const options::ServeOptions& options) {
  if (options.max_num_seqs) return static_cast<uint32_t>(*options.max_num_seqs);
  return std::min(kSeqsDefault, batch_tokens(options));
}

std::string_view isa_flag(options::CpuIsa isa) {
  switch (isa) {
    case options::CpuIsa::kAuto:
      return "auto";
    case options::CpuIsa::kPortable:
      return "portable";
    case options::CpuIsa::kAvx2:
      return "avx2";
    case options::CpuIsa::kAvx512:
      return "avx512";
    case options::CpuIsa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "auto";
}

api::Role role_of(const options::ServeOptions& options) {
  if (!options.kv_transfer) return api::Role::kBoth;
  switch (options.kv_transfer->role) {
    case options::KvRole::kProducer:
      return api::Role::kPrefill;
    case options::KvRole::kConsumer:
      return api::Role::kDecode;
    case options::KvRole::kBoth:
      return api::Role::kBoth;
  }
  return api::Role::kBoth;
}

api::HandoverOrder order_of(const options::ServeOptions& options) {
  const bool is_layerwise =
      options.kv_transfer && options.kv_transfer->connector == options::Connector::kLayerwise;
  return is_layerwise ? api::HandoverOrder::kLayerwise : api::HandoverOrder::kPull;
}

transfer::TransportChoice transport_choice(options::KvTransport transport) {
  switch (transport) {
    case options::KvTransport::kAuto:
      return transfer::TransportChoice::kAuto;
    case options::KvTransport::kLocal:
      return transfer::TransportChoice::kLocal;
    case options::KvTransport::kTcp:
      return transfer::TransportChoice::kTcp;
    case options::KvTransport::kUcx:
      return transfer::TransportChoice::kUcx;
  }
  return transfer::TransportChoice::kAuto;
}

api::SamplingDefaults defaults_of(const checkpoint::GenerationConfig& generation) {
  const auto narrow = [](const std::optional<double>& value) {
    return value ? std::optional(static_cast<float>(*value)) : std::nullopt;
  };
  const auto count = [](const std::optional<int64_t>& value) {
    return value ? std::optional(static_cast<int32_t>(std::min<int64_t>(*value, INT32_MAX))) : std::nullopt;
  };
  return {.temperature = narrow(generation.temperature),
          .top_p = narrow(generation.top_p),
          .min_p = narrow(generation.min_p),
          .repetition_penalty = narrow(generation.repetition_penalty),
          .top_k = count(generation.top_k),
          .max_new_tokens = count(generation.max_new_tokens)};
}

std::vector<TokenId> merged(std::vector<TokenId> ids, const std::vector<TokenId>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
  std::ranges::sort(ids);
  ids.erase(std::ranges::unique(ids).begin(), ids.end());
  return ids;
}

// What --generation-config names. `vllm` turns defaults of sampling off, not the model's end tokens
// (vllm/config/model.py, try_get_generation_config and get_diff_sampling_param).
Result<checkpoint::GenerationConfig> generation_config(const std::string& source,
                                                       const checkpoint::Checkpoint& checkpoint) {
  if (source == "auto" || source == "vllm") return checkpoint.generation;
  TRY(auto found, checkpoint::read_generation_config(source, checkpoint.config.vocab_size));
  if (found) return std::move(*found);
  return fail(Code::kNotFound,
              fmt::format("--generation-config: {}, expected auto, vllm or a directory with a "
                          "generation_config.json",
                          source));
}

// Where a listener on `host` is reached: each address of this machine for a wildcard.
std::string reached_at(const std::string& host, uint16_t port) {
  if (!net::is_wildcard(host)) return net::to_string(net::Address{host, port});
  std::vector<std::string> all;
  for (const net::Interface& one : net::interfaces().value_or(std::vector<net::Interface>{})) {
    if (!one.is_up || (host == "0.0.0.0" && one.address.family() != AF_INET)) continue;
    all.push_back(net::to_string(net::Address{net::to_address(one.address).host, port}));
  }
  return fmt::format("{}", fmt::join(all, ", "));
}

// Without a cluster secret nobody has to prove who they are. `port` is 0 on the side that connects.
void warn_of_strangers(const std::string& host, uint16_t port) {
  log_warning("serve", port == 0
                           ? "no --cluster-secret-file: the peers that this instance connects to need not "
                             "prove who they are"
                           : fmt::format("no --cluster-secret-file: whoever reaches {} can read and claim KV",
                                         reached_at(host, port)));
}

// The flight record that a failed CHECK writes: that of the instance which was loaded last, while it lives.
std::atomic<engine::Recorder*> recorder_of_last{nullptr};

void write_record_when_dying(engine::Recorder* recorder) {
  static std::once_flag registered;
  std::call_once(registered, [] {
    on_check_failed([] {
      engine::Recorder* last = recorder_of_last.load();
      if (last == nullptr) return;
      if (const auto path = last->write_file()) log_error("serve", fmt::format("flight record: {}", *path));
    });
  });
  recorder_of_last = recorder;
}

void forget_record(engine::Recorder* recorder) {
  recorder_of_last.compare_exchange_strong(recorder, nullptr);
}

}  // namespace

Result<std::unique_ptr<LoadedInstance>> LoadedInstance::load(
    const options::ServeOptions& options, std::function<void(std::vector<engine::Answer>)> deliver) {
  auto instance = std::unique_ptr<LoadedInstance>(new LoadedInstance());
  // The tokenizer is the slowest part of a start from a warm page cache; the weights are mapped meanwhile.
  Result<void> text;
  std::thread text_loader([&] { text = instance->load_text(options); });
  Result<void> weights = instance->load_model(options);
  text_loader.join();
  TRY_DO(std::move(weights));
  TRY_DO(std::move(text));
  TRY_DO(instance->make_arena(options));
  instance->make_served_model(options);
  TRY_DO(instance->start_transfer(options));
  TRY_DO(instance->start_engine(options, std::move(deliver)));
  instance->verify_fingerprint_later();
  return instance;
}

LoadedInstance::~LoadedInstance() {
  if (recorder_) forget_record(recorder_.get());
  ending_ = true;
  if (fingerprint_thread_.joinable()) fingerprint_thread_.join();
  if (engine_thread_) engine_thread_->stop();
  transfer_thread_.reset();  // delivers to the engine thread, which takes nothing any more
}

Result<void> LoadedInstance::load_text(const options::ServeOptions& options) {
  const std::string directory = options.tokenizer.empty() ? options.model : options.tokenizer;
  TRY(tokenizer_, text::Tokenizer::load(directory));
  auto chat_template = text::ChatTemplate::load(directory);
  if (!options.chat_template.empty()) {
    std::string source = options.chat_template;
    if (std::ifstream file(options.chat_template); file) {
      std::ostringstream whole;
      whole << file.rdbuf();
      source = std::move(whole).str();
    }
    boost::json::object special = chat_template ? chat_template->special_tokens() : boost::json::object();
    TRY(chat_template_, text::ChatTemplate::compile(source, std::move(special)));
    return {};
  }
  if (chat_template) {
    chat_template_ = std::move(*chat_template);
  } else if (chat_template.error().code == Code::kNotFound) {
    chat_template_missing_ = chat_template.error().message;
  } else {
    return Failure(chat_template.error());
  }
  return {};
}

Result<void> LoadedInstance::load_model(const options::ServeOptions& options) {
  TRY(auto opened, checkpoint::Checkpoint::open(options.model));
  checkpoint_ = std::make_shared<const checkpoint::Checkpoint>(std::move(opened));
  for (const std::string& notice : checkpoint_->notices) log_info("serve", notice);
  TRY(generation_, generation_config(options.generation_config, *checkpoint_));
  TRY(const kernels::Isa isa, kernels::select_isa(isa_flag(options.cpu_isa)));
  const uint32_t cores = usable_cores();
  const uint32_t asked = options.threads ? static_cast<uint32_t>(*options.threads) : cores;
  if (asked > cores)
    log_warning("serve", fmt::format("--threads {}: this process may use {} cores", asked, cores));
  cpu_ = std::make_unique<kernels::Cpu>(isa, std::clamp(asked, 1U, cores));
  TRY(const model::DTypeChoice dtype, model::parse_dtype_choice(options.dtype));
  const model::DecoderOptions decoder{
      .dtype = dtype,
      .block_tokens = static_cast<uint32_t>(options.block_size),
      .batch_rows_max = batch_tokens(options),
      .logit_rows_max = kLogitRowsMax,
      .max_model_len = options.max_model_len ? static_cast<uint32_t>(*options.max_model_len) : 0};
  TRY(auto loaded, model::load_decoder(checkpoint_, *cpu_, decoder));
  for (const std::string& notice : loaded.notices) log_info("serve", notice);
  language_model_ = std::move(loaded.model);
  const model::ModelInfo& info = language_model_->info();
  log_info("serve", fmt::format("{}: {}, {} weights of {:.0f} MB, {} thread(s) of {}", options.model,
                                info.architecture, dtype_name(info.activation_dtype),
                                static_cast<double>(info.weight_bytes) / 1e6, cpu_->team().threads(),
                                kernels::isa_name(isa)));
  return {};
}

Result<void> LoadedInstance::make_arena(const options::ServeOptions& options) {
  const model::ModelInfo& info = language_model_->info();
  const kv::SizingInput sizing{.layout = info.kv_layout,
                               .available_bytes = available_memory_bytes(),
                               .memory_fraction = options.gpu_memory_utilization,
                               .seqs_max = seqs_max(options),
                               .model_tokens_max = info.max_position,
                               .cache_bytes = options.kv_cache_memory_bytes,
                               .blocks = std::nullopt};
  if (sizing.cache_bytes.value_or(0) > sizing.available_bytes) {
    log_warning("serve",
                fmt::format("KV cache: {:.0f} MB asked for, {:.0f} MB of memory are available: once that "
                            "is used up, the kernel ends this process",
                            static_cast<double>(*sizing.cache_bytes) / 1e6,
                            static_cast<double>(sizing.available_bytes) / 1e6));
  }
  TRY(const uint32_t blocks, kv::arena_blocks(sizing));
  TRY(arena_, kv::KvArena::create(info.kv_layout, blocks, incarnation_));
  log_info(
      "serve",
      fmt::format("KV cache: {} blocks of {} tokens, {:.0f} MB", blocks, info.kv_layout.block_tokens,
                  static_cast<double>(blocks) * static_cast<double>(info.kv_layout.block_bytes()) / 1e6));
  return {};
}

void LoadedInstance::make_served_model(const options::ServeOptions& options) {
  const model::ModelInfo& info = language_model_->info();
  model_ = std::make_unique<ServedModel>(std::move(*tokenizer_));
  model_->names = options.served_model_names;
  model_->accept_any_name = options.accept_any_model;
  model_->directory = options.model;
  model_->loaded_s =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  model_->chat_template = std::move(chat_template_);
  model_->chat_template_missing = std::move(chat_template_missing_);
  if (model_->chat_template) model_->special_tokens = model_->chat_template->special_tokens();
  model_->eos_token_ids = merged(generation_.eos_token_ids, checkpoint_->config.eos_token_ids);
  if (options.generation_config != "vllm") model_->defaults = defaults_of(generation_);
  model_->vocab_size = static_cast<int32_t>(info.vocab_size);
  model_->max_model_len = static_cast<int32_t>(info.max_position);
  model_->max_logprobs = options.max_logprobs;
  model_->trust_request_chat_template = options.trust_request_chat_template;
  model_->identity = {.protocol = api::kHandoverProtocol,
                      .version = BATON_VERSION,
                      .role = role_of(options),
                      .hands_over = options.kv_transfer.has_value(),
                      .incarnation = incarnation_,
                      .engine_id = options.kv_transfer && !options.kv_transfer->engine_id.empty()
                                       ? options.kv_transfer->engine_id
                                       : incarnation_.hex(),
                      .fingerprint = info.fingerprint,
                      .kv_dtype = std::string(dtype_name(info.kv_layout.dtype)),
                      .block_size = static_cast<int32_t>(info.kv_layout.block_tokens),
                      .max_model_len = model_->max_model_len,
                      .tensor_parallel_size = 1,
                      .kv_port = 0,
                      .order = order_of(options),
                      .resume = api::kResumeProtocol};
}

Result<void> LoadedInstance::start_transfer(const options::ServeOptions& options) {
  if (!options.kv_transfer) return {};
  const options::KvTransferConfig& config = *options.kv_transfer;
  const model::ModelInfo& info = language_model_->info();
  transfer::tcp::SocketMoverConfig mover;
  mover.identity = {.engine_id = model_->identity.engine_id,
                    .incarnation = incarnation_,
                    .fingerprint = info.fingerprint,
                    .layout = info.kv_layout,
                    .tp_size = 1,
                    .dp_size = static_cast<uint32_t>(options.data_parallel_size),
                    .boot_id = transfer::tcp::boot_id(),
                    .max_model_len = info.max_position};
  mover.choice = transport_choice(options.kv_transport);
  mover.ucx_transports = options.ucx_transports;
  if (!options.host_ip.empty()) {
    advertised_host_ = options.host_ip;
  } else {
    TRY(advertised_host_, net::advertise_host());
  }
  if (!options.cluster_secret_file.empty()) {
    TRY(mover.secret, net::ClusterSecret::read(options.cluster_secret_file));
  }
  const bool encrypts = !options.kv_tls_certfile.empty();
  if (encrypts) {
    TRY(mover.tls, net::TlsContext::create({.certificate = options.kv_tls_certfile,
                                            .key = options.kv_tls_keyfile,
                                            .authorities = options.kv_tls_ca_certs}));
  }
  // In the pull order P listens and D connects, in the layer-wise one the other way round.
  const bool is_layerwise = config.connector == options::Connector::kLayerwise;
  const auto connects = is_layerwise ? options::KvRole::kProducer : options::KvRole::kConsumer;
  if (config.role != connects) {
    TRY(const uint16_t port,
        options::side_channel_port(config.kv_port, {.dp_rank = options.data_parallel_rank.value_or(0)}));
    mover.listen = net::Address{options.host, port};
  }
  TRY(auto created, transfer::tcp::SocketMover::create(std::move(mover), *arena_));
  side_channel_port_ = created->port();
  model_->identity.kv_port = side_channel_port_;
  if (options.cluster_secret_file.empty() && !encrypts) warn_of_strangers(options.host, side_channel_port_);
  if (side_channel_port_ != 0) {
    log_info("serve", fmt::format("hand-over: listening on {}:{} as engine {}", advertised_host_,
                                  side_channel_port_, model_->identity.engine_id));
  }
  transfer_thread_ =
      std::make_unique<transfer::TransferThread>(std::move(created), [this](transfer::MoverEvent& event) {
        // Until the engine thread is there nothing can have been asked of the mover but by a peer.
        EngineThread* engine = engine_for_events_.load();
        if (engine == nullptr) return false;
        engine::Inbox item = std::move(event);
        if (engine->post(std::move(item))) return true;
        event = std::get<transfer::MoverEvent>(
            std::move(item));  // NOLINT(bugprone-use-after-move): refused, not moved
        return false;
      });
  return {};
}

Result<void> LoadedInstance::start_engine(const options::ServeOptions& options,
                                          std::function<void(std::vector<engine::Answer>)> deliver) {
  engine::EngineConfig config;
  config.limits = {.seqs_max = seqs_max(options),
                   .batch_tokens_max = language_model_->batch_rows_max(),
                   .step_max = std::chrono::duration_cast<Duration>(
                       std::chrono::duration<double, std::milli>(options.step_ms_max)),
                   .policy = options.scheduling_policy == options::SchedulingPolicy::kPriority
                                 ? engine::SchedulingPolicy::kPriority
                                 : engine::SchedulingPolicy::kFcfs,
                   .returns = options.recompute_scheduler && options.kv_transfer &&
                              options.kv_transfer->role == options::KvRole::kConsumer};
  config.waiting_max = static_cast<uint32_t>(options.max_queue_len);
  config.model_tokens_max = language_model_->info().max_position;
  config.prefix_cache = options.enable_prefix_caching;
  config.landing_failure =
      options.recompute_on_load_failure ? engine::LandingFailure::kRecompute : engine::LandingFailure::kFail;
  config.handover.incarnation = incarnation_;
  config.handover.lease = options.kv_lease;
  TRY_DO(engine::check_config(config, language_model_->info(), *arena_));
  recorder_ = std::make_unique<engine::Recorder>(std::filesystem::temp_directory_path().string());
  write_record_when_dying(recorder_.get());
  const auto take = [this, deliver = std::move(deliver)](engine::Outbox outbox) {
    if (transfer_thread_) transfer_thread_->post(std::move(outbox.commands));
    if (!outbox.answers.empty()) deliver(std::move(outbox.answers));
  };
  engine_ = std::make_unique<engine::Engine>(
      config, *language_model_, *arena_,
      engine::Surroundings{.clock = &clock_,
                           .poll_interrupt = [this](uint32_t) { return beacon_.tick(clock_); },
                           .emit = take,
                           .recorder = recorder_.get(),
                           .refill = {}});
  model_->max_model_len = static_cast<int32_t>(engine_->model_tokens_max());
  model_->identity.max_model_len = model_->max_model_len;
  if (options.warmup.value_or(false)) warm_up();
  if (options.kv_transfer && options.warmup.value_or(true)) measure_speeds(options);
  engine_thread_ = std::make_unique<EngineThread>(*engine_, *recorder_, beacon_, take);
  engine_for_events_ = engine_thread_.get();
  return {};
}

// Faults weights and KV in and takes the first steps.
void LoadedInstance::warm_up() {
  for (const checkpoint::SafetensorsFile& file : checkpoint_->files) file.file.fault_in();
  arena_->touch_all();
  const uint32_t tokens = take_first_steps(*language_model_, *arena_);
  log_info("serve",
           fmt::format("warmed up: weights and KV are in memory, a prefill of {} tokens and a decode "
                       "step have run",
                       tokens));
}

// For proxies that weigh whether a hand-over pays; without it they hand over.
void LoadedInstance::measure_speeds(const options::ServeOptions& options) {
  api::Speeds speeds;
  measure_prefill(*language_model_, *arena_, clock_, speeds);
  const auto measured = measure_handover(arena_->layout(), transport_choice(options.kv_transport), speeds);
  if (!measured) {
    log_warning("serve", "the speed of a hand-over cannot be measured: " + measured.error().message);
    return;
  }
  model_->identity.speeds = speeds;
  log_info("serve",
           fmt::format("measured: a prefill takes {:.2f} ms and {:.0f} tokens/s, a hand-over {:.2f} ms and "
                       "{:.0f} MB/s of {} bytes a token",
                       milliseconds(speeds.prefill_step), speeds.prefill_tokens_per_s,
                       milliseconds(speeds.handover), speeds.handover_bytes_per_s / 1e6,
                       speeds.kv_bytes_per_token));
}

void LoadedInstance::verify_fingerprint_later() {
  fingerprint_thread_ = std::thread([this] {
    const auto complete = checkpoint::complete_fingerprint(*checkpoint_, ending_);
    if (complete) {
      log_info("serve", fmt::format("fingerprint of all weights: {}", complete->hex()));
    } else if (complete.error().code != Code::kCancelled) {
      log_error("serve", complete.error().message);
    }
  });
}

}  // namespace baton::serve
