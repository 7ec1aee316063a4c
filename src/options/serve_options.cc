#include "options/serve_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "options/serve_configs.h"
#include "options/spelling.h"

namespace baton::options {
namespace {

constexpr int64_t kTokensMax = 1 << 30;
constexpr int64_t kSeqsMax = 65536;
constexpr int64_t kRanksMax = 65536;
constexpr int64_t kThreadsMax = 4096;
constexpr int64_t kLeaseMsMax = 3'600'000;  // an hour: a lease is renewed while somebody wants it
constexpr double kSecondsMax = 1e6;
constexpr double kGib = 1024.0 * 1024 * 1024;
constexpr double kMemoryGibMax = 1 << 20;
constexpr const char* kSecretDefault = "/etc/baton/cluster-secret";

Duration as_duration(double seconds) { return Duration(static_cast<int64_t>(seconds * 1e9)); }

std::string variable(const Environment& environment, std::string_view name) {
  const auto at = environment.find(name);
  return at == environment.end() ? std::string{} : at->second;
}

std::string first_variable(const Environment& environment, std::string_view name,
                           std::string_view otherwise) {
  std::string value = variable(environment, name);
  return value.empty() ? variable(environment, otherwise) : value;
}

// Reads a variable by the rules of a flag of that name.
Result<std::optional<double>> variable_number(const Environment& environment, std::string_view name,
                                              double least, double most) {
  const std::string text = variable(environment, name);
  if (text.empty()) return std::nullopt;
  const Flag flag{.name = name, .kind = Kind::kNumber};
  Arguments one;
  Given& given = one.given[name];
  given.flag = &flag;
  given.texts.push_back(text);
  return one.number(name, least, most);
}

// Fills a ServeOptions from what was given, one group of flags after the other.
class Binder {
 public:
  Binder(const Arguments& arguments, const Environment& environment)
      : given_(arguments),
        environment_(environment),
        no_effect_(arguments.no_effect),
        warnings_(arguments.warnings) {}

  Result<ServeOptions> run() {
    TRY_DO(bind_model());
    TRY_DO(bind_door());
    TRY_DO(bind_engine());
    TRY_DO(bind_machine());
    TRY_DO(bind_parallel());
    TRY_DO(bind_handover());
    TRY_DO(bind_configs());
    TRY_DO(check_together());
    TRY_DO(note_variables());
    if (!no_effect_.empty()) {
      warnings_.push_back(fmt::format("accepted, no effect here: {}", fmt::join(no_effect_, ", ")));
    }
    options_.notices = std::move(warnings_);
    return std::move(options_);
  }

 private:
  template <class Int>
  Result<void> integer(std::string_view flag, int64_t least, int64_t most, Int& into) {
    TRY(const auto value, given_.integer(flag, least, most));
    if (value) into = static_cast<Int>(*value);
    return {};
  }
  template <class Int>
  Result<void> integer(std::string_view flag, int64_t least, int64_t most, std::optional<Int>& into) {
    TRY(const auto value, given_.integer(flag, least, most));
    if (value) into = static_cast<Int>(*value);
    return {};
  }
  void text(std::string_view flag, std::string& into) {
    if (auto value = given_.text(flag)) into = *std::move(value);
  }
  void flip(std::string_view flag, bool& into) { into = given_.switched(flag).value_or(into); }
  static Failure refuse(std::string_view flag, std::string_view value, std::string_view expectation) {
    return fail(Code::kInvalid, fmt::format("{}: {}, expected {}", flag, excerpt(value), expectation));
  }

  Result<void> bind_model() {
    text("--model", options_.model);
    if (given_.positionals.size() > 1) return refuse("MODEL", given_.positionals[1], "one directory");
    if (!given_.positionals.empty()) {
      const std::string& positional = given_.positionals[0];
      if (!options_.model.empty() && options_.model != positional) {
        warnings_.push_back(fmt::format("MODEL given twice, using {}", positional));
      }
      options_.model = positional;
    }
    if (options_.model.empty())
      return fail(Code::kInvalid, "MODEL: missing, expected a directory with a checkpoint");
    options_.served_model_names = given_.texts("--served-model-name");
    if (options_.served_model_names.empty()) options_.served_model_names.push_back(options_.model);
    flip("--accept-any-model", options_.accept_any_model);
    text("--tokenizer", options_.tokenizer);
    text("--chat-template", options_.chat_template);
    flip("--trust-request-chat-template", options_.trust_request_chat_template);
    text("--generation-config", options_.generation_config);
    text("--dtype", options_.dtype);
    if (options_.dtype == "float16") options_.dtype = "half";
    if (options_.dtype == "float") options_.dtype = "float32";
    TRY_DO(integer("--max-model-len", 1, kTokensMax, options_.max_model_len));
    text("--quantization", options_.quantization);
    return {};
  }

  Result<void> bind_door() {
    text("--host", options_.host);
    TRY_DO(integer("--port", 0, 65535, options_.port));
    options_.api_keys = given_.texts("--api-key");
    if (options_.api_keys.empty()) {
      const std::string key = variable(environment_, "VLLM_API_KEY");
      if (!key.empty()) options_.api_keys.push_back(key);
    }
    options_.admin_key = variable(environment_, "BATON_ADMIN_KEY");
    text("--admin-key", options_.admin_key);
    for (const char* flag : {"--api-key", "--admin-key", "--served-model-name"}) TRY_DO(given_.filled(flag));
    TRY_DO(integer("--max-queue-len", 1, 1 << 20, options_.max_queue_len));
    TRY(const auto timeout, given_.number("--request-timeout", 0.001, kSecondsMax));
    if (timeout) options_.request_timeout = as_duration(*timeout);
    TRY_DO(integer("--max-logprobs", 0, 1 << 20, options_.max_logprobs));
    flip("--return-tokens-as-token-ids", options_.return_tokens_as_token_ids);
    flip("--enable-log-requests", options_.log_requests);
    options_.log_requests = !given_.switched("--disable-log-requests").value_or(!options_.log_requests);
    const std::string level = given_.text("--log-level").value_or("info");
    if (level == "debug") options_.log_level = LogLevel::kDebug;
    if (level == "warning") options_.log_level = LogLevel::kWarning;
    if (level == "error") options_.log_level = LogLevel::kError;
    text("--root-path", options_.root_path);
    if (const auto url = given_.text("--otlp-traces-endpoint")) {
      TRY(options_.otlp_traces, parse_otlp_endpoint(*url));
    }
    const std::string service = variable(environment_, "OTEL_SERVICE_NAME");
    if (!service.empty()) options_.service_name = service;
    return {};
  }

  Result<void> bind_engine() {
    TRY_DO(integer("--max-num-batched-tokens", 1, kBatchTokensMax, options_.max_num_batched_tokens));
    TRY_DO(integer("--max-num-seqs", 1, kSeqsMax, options_.max_num_seqs));
    TRY_DO(integer("--block-size", 16, 1024, options_.block_size));
    if (options_.block_size % 16 != 0) {
      return refuse("--block-size", std::to_string(options_.block_size), "a multiple of 16");
    }
    TRY_DO(integer("--seed", 0, INT64_MAX, options_.seed));
    TRY(const auto step_ms, given_.number("--step-ms-max", 1, 1e6));
    options_.step_ms_max = step_ms.value_or(options_.step_ms_max);
    flip("--enable-prefix-caching", options_.enable_prefix_caching);
    flip("--enable-chunked-prefill", options_.enable_chunked_prefill);
    options_.warmup = given_.switched("--warmup");
    if (given_.text("--scheduling-policy") == "priority")
      options_.scheduling_policy = SchedulingPolicy::kPriority;
    return {};
  }

  Result<void> bind_machine() {
    const std::string isa = given_.text("--cpu-isa").value_or("auto");
    if (isa == "portable") options_.cpu_isa = CpuIsa::kPortable;
    if (isa == "avx2") options_.cpu_isa = CpuIsa::kAvx2;
    if (isa == "avx512") options_.cpu_isa = CpuIsa::kAvx512;
    if (isa == "avx512bf16") options_.cpu_isa = CpuIsa::kAvx512Bf16;
    TRY(const auto omp, variable_number(environment_, "OMP_NUM_THREADS", 1, kThreadsMax));
    if (omp) options_.threads = static_cast<int32_t>(*omp);
    TRY_DO(integer("--threads", 1, kThreadsMax, options_.threads));
    const std::string bind = variable(environment_, "OMP_PROC_BIND");
    options_.pin_threads = bind != "false" && bind != "FALSE";
    TRY(const auto fraction, given_.number("--gpu-memory-utilization", 0.01, 1));
    options_.gpu_memory_utilization = fraction.value_or(options_.gpu_memory_utilization);
    TRY(const auto gib, variable_number(environment_, "VLLM_CPU_KVCACHE_SPACE", 0, kMemoryGibMax));
    if (gib && *gib > 0) options_.kv_cache_memory_bytes = static_cast<uint64_t>(*gib * kGib);
    TRY_DO(integer("--kv-cache-memory-bytes", 1, INT64_MAX, options_.kv_cache_memory_bytes));
    return {};
  }

  Result<void> bind_parallel() {
    TRY_DO(integer("--tensor-parallel-size", 1, kRanksMax, options_.tensor_parallel_size));
    TRY_DO(integer("--pipeline-parallel-size", 1, kRanksMax, options_.pipeline_parallel_size));
    TRY_DO(integer("--data-parallel-size", 1, kRanksMax, options_.data_parallel_size));
    TRY_DO(integer("--data-parallel-rank", 0, kRanksMax - 1, options_.data_parallel_rank));
    TRY_DO(integer("--data-parallel-rpc-port", 1, 65535, options_.data_parallel_rpc_port));
    text("--data-parallel-address", options_.data_parallel_address);
    flip("--enable-expert-parallel", options_.enable_expert_parallel);
    const int32_t rank = options_.data_parallel_rank.value_or(0);
    if (rank < options_.data_parallel_size) return {};
    return refuse("--data-parallel-rank", std::to_string(rank),
                  fmt::format("less than --data-parallel-size, {}", options_.data_parallel_size));
  }

  Result<void> bind_handover() {
    if (const json::object* config = given_.object("--kv-transfer-config")) {
      TRY(options_.kv_transfer, parse_kv_transfer_config(*config, no_effect_, warnings_));
      options_.recompute_on_load_failure = options_.kv_transfer->recompute_on_load_failure;
    }
    const std::string transport = given_.text("--kv-transport").value_or("auto");
    if (transport == "local") options_.kv_transport = KvTransport::kLocal;
    if (transport == "tcp") options_.kv_transport = KvTransport::kTcp;
    if (transport == "ucx") options_.kv_transport = KvTransport::kUcx;
    if (const auto policy = given_.text("--kv-load-failure-policy")) {
      options_.recompute_on_load_failure = *policy == "recompute";
    }
    if (options_.kv_transfer)
      options_.kv_transfer->recompute_on_load_failure = options_.recompute_on_load_failure;
    TRY_DO(bind_lease());
    options_.cluster_secret_file = variable(environment_, "BATON_CLUSTER_SECRET_FILE");
    text("--cluster-secret-file", options_.cluster_secret_file);
    std::error_code ignored;
    if (options_.cluster_secret_file.empty() && std::filesystem::exists(kSecretDefault, ignored)) {
      options_.cluster_secret_file = kSecretDefault;
    }
    TRY_DO(bind_kv_tls());
    options_.host_ip = first_variable(environment_, "VLLM_HOST_IP", "HCCL_IF_IP");
    options_.socket_ifname = first_variable(environment_, "GLOO_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME");
    options_.ucx_transports = variable(environment_, "UCX_TLS");
    return {};
  }

  Result<void> bind_kv_tls() {
    text("--kv-tls-certfile", options_.kv_tls_certfile);
    text("--kv-tls-keyfile", options_.kv_tls_keyfile);
    text("--kv-tls-ca-certs", options_.kv_tls_ca_certs);
    const std::array<std::pair<std::string_view, bool>, 3> given = {
        {{"--kv-tls-certfile", !options_.kv_tls_certfile.empty()},
         {"--kv-tls-keyfile", !options_.kv_tls_keyfile.empty()},
         {"--kv-tls-ca-certs", !options_.kv_tls_ca_certs.empty()}}};
    const auto missing = std::ranges::find(given, false, &std::pair<std::string_view, bool>::second);
    const auto first = std::ranges::find(given, true, &std::pair<std::string_view, bool>::second);
    if (first == given.end()) return {};
    if (missing != given.end()) {
      return fail(Code::kInvalid, fmt::format("{} is given without {}, expected all of --kv-tls-certfile, "
                                              "--kv-tls-keyfile and --kv-tls-ca-certs, or none",
                                              first->first, missing->first));
    }
    if (options_.kv_transport == KvTransport::kUcx)
      return fail(
          Code::kInvalid,
          "--kv-tls-certfile with --kv-transport ucx: UCX does not encrypt, expected auto, local or tcp");
    return {};
  }

  Result<void> bind_lease() {
    for (const std::string_view name :
         {"VLLM_NIXL_ABORT_REQUEST_TIMEOUT", "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT"}) {
      TRY(const auto lease_s, variable_number(environment_, name, 0.001, 1e9));
      if (!lease_s) continue;
      const double longest_s = static_cast<double>(kLeaseMsMax) / 1000;
      if (*lease_s > longest_s) {
        warnings_.push_back(
            fmt::format("{}: {} s is cut to {} s; a lease is renewed while somebody waits for the KV", name,
                        *lease_s, longest_s));
      }
      options_.kv_lease = as_duration(std::min(*lease_s, longest_s));
    }
    TRY(const auto lease_ms, given_.integer("--kv-lease-ms", 100, kLeaseMsMax));
    if (lease_ms) options_.kv_lease = std::chrono::milliseconds(*lease_ms);
    return {};
  }

  Result<void> bind_configs() {
    const bool strict = given_.switched("--strict-config").value_or(false);
    const Remarks remarks{no_effect_, warnings_};
    if (const json::object* config = given_.object("--speculative-config")) {
      TRY_DO(read_speculative_config(*config, options_, strict, remarks));
    }
    if (const json::object* config = given_.object("--compilation-config")) {
      TRY_DO(read_compilation_config(*config, strict, remarks));
    }
    if (const json::object* config = given_.object("--additional-config")) {
      const bool eager = given_.switched("--enforce-eager").value_or(false);
      TRY_DO(read_additional_config(*config, eager, options_, strict, remarks));
    }
    return {};
  }

  Result<void> check_together() {
    const int64_t seqs = options_.max_num_seqs.value_or(0);
    const int64_t tokens = options_.max_num_batched_tokens.value_or(seqs);
    if (tokens < seqs) {
      return refuse("--max-num-batched-tokens", std::to_string(tokens),
                    fmt::format("at least --max-num-seqs, {}", seqs));
    }
    const int64_t drafted = seqs * (1 + options_.num_speculative_tokens.value_or(0));
    if (tokens < drafted) {
      warnings_.push_back(fmt::format(
          "--max-num-batched-tokens: {} is less than --max-num-seqs answers with their drafts, {}", tokens,
          drafted));
    }
    if (!options_.kv_transfer) return {};
    TRY_DO(check_own_side());
    RankPlace place;
    place.dp_rank = options_.data_parallel_rank.value_or(0);
    place.tp_size = options_.tensor_parallel_size;
    place.pp_size = options_.pipeline_parallel_size;
    place.tp_rank = options_.tensor_parallel_size - 1;
    place.pp_rank = options_.pipeline_parallel_size - 1;
    TRY([[maybe_unused]] const uint16_t last_port, handshake_port(options_.kv_transfer->kv_port, place));
    return {};
  }

  // What the extra config says of this side must be what the flags say.
  Result<void> check_own_side() {
    const KvTransferConfig& config = *options_.kv_transfer;
    const auto check = [&](std::string_view side, const SideSizes& sizes) -> Result<void> {
      const auto differs = [&](std::string_view key, int32_t stated, std::string_view flag,
                               int32_t value) -> Result<void> {
        if (stated == 0 || stated == value) return {};
        return fail(Code::kInvalid,
                    fmt::format("--kv-transfer-config.kv_connector_extra_config.{}.{}: {}, expected {} {}",
                                side, key, stated, flag, value));
      };
      TRY_DO(differs("tp_size", sizes.tp_size, "--tensor-parallel-size", options_.tensor_parallel_size));
      return differs("dp_size", sizes.dp_size, "--data-parallel-size", options_.data_parallel_size);
    };
    if (config.role == KvRole::kProducer) return check("prefill", config.prefill);
    if (config.role == KvRole::kConsumer) return check("decode", config.decode);
    return {};
  }

  Result<void> note_variables() {
    if (variable(environment_, "VLLM_USE_V1") == "0")
      return refuse("VLLM_USE_V1", "0", "1: there is one engine");
    for (const Variable& known : serve_command().variables) {
      if (known.treatment == Treatment::kNoEffect && environment_.contains(known.name)) {
        no_effect_.emplace_back(known.name);
      }
    }
    return {};
  }

  const Arguments& given_;
  const Environment& environment_;
  std::vector<std::string> no_effect_;
  std::vector<std::string> warnings_;
  ServeOptions options_;
};

}  // namespace

Result<ServeOptions> parse_serve(std::span<const std::string> argv, const Environment& environment) {
  TRY(const Arguments arguments, parse_arguments(serve_command(), argv));
  if (arguments.help) {
    ServeOptions options;
    options.help = true;
    return options;
  }
  return Binder(arguments, environment).run();
}

Result<void> check_supported(const ServeOptions& options) {
  std::vector<std::string> missing;
  const auto above_one = [&](std::string_view flag, int32_t size) {
    if (size > 1) missing.push_back(fmt::format("{} {}", flag, size));
  };
  above_one("--tensor-parallel-size", options.tensor_parallel_size);
  above_one("--pipeline-parallel-size", options.pipeline_parallel_size);
  above_one("--data-parallel-size", options.data_parallel_size);
  if (options.enable_expert_parallel) missing.emplace_back("--enable-expert-parallel");
  if (!options.quantization.empty())
    missing.push_back(fmt::format("--quantization {}", options.quantization));
  if (options.num_speculative_tokens) missing.emplace_back("--speculative-config");
  if (options.prefill_first_scheduler)
    missing.emplace_back("--additional-config.ascend_scheduler_config.enabled");
  if (missing.empty()) return {};
  return fail(Code::kInvalid, fmt::format("not yet supported: {}", fmt::join(missing, ", ")));
}

}  // namespace baton::options
