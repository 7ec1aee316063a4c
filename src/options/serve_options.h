// The options of `baton serve MODEL`: vLLM's flags and the tutorial's variables, parsed and checked.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/result.h"
#include "options/flags.h"
#include "options/kv_transfer.h"
#include "options/otlp.h"

namespace baton::options {

enum class SchedulingPolicy { kFcfs, kPriority };
enum class KvTransport { kAuto, kLocal, kTcp, kUcx };
enum class CpuIsa { kAuto, kPortable, kAvx2, kAvx512, kAvx512Bf16 };

// Tokens of one step at most: the bound under which flight records are read again (engine/recorder.h).
inline constexpr int64_t kBatchTokensMax = 256 * 1024;

struct ServeOptions {
  bool help = false;  // --help: print help_text(serve_command()) and exit 0; nothing below is checked

  // Model
  std::string model;                            // a directory
  std::vector<std::string> served_model_names;  // at least one; the first is echoed
  bool accept_any_model = false;
  std::string tokenizer;      // directory or file; empty: the model's
  std::string chat_template;  // path or text of a template; empty: the model's
  bool trust_request_chat_template = false;
  std::string generation_config = "auto";  // auto, vllm, or a directory
  std::string dtype = "auto";              // auto, bfloat16, float32, half
  std::optional<int32_t> max_model_len;
  std::string quantization;  // empty: none

  // Door
  std::string host = "0.0.0.0";
  uint16_t port = 8000;
  std::vector<std::string> api_keys;        // --api-key, VLLM_API_KEY; empty: open
  std::string admin_key;                    // empty: admin routes take loopback only
  int32_t max_queue_len = 1024;             // waiting requests; then 429
  std::optional<Duration> request_timeout;  // of a whole request
  int32_t max_logprobs = 20;
  bool return_tokens_as_token_ids = false;
  bool log_requests = true;
  LogLevel log_level = LogLevel::kInfo;
  std::string root_path;
  std::optional<OtlpEndpoint> otlp_traces;   // nothing: no spans
  std::string service_name = "baton-serve";  // OTEL_SERVICE_NAME: of the spans

  // Engine
  uint64_t seed = 0;
  int32_t block_size = 16;                        // tokens, a multiple of 16
  std::optional<int32_t> max_num_batched_tokens;  // tokens of one step
  std::optional<int32_t> max_num_seqs;
  double step_ms_max = 100;  // bound on one step's prefill
  bool enable_prefix_caching = true;
  bool enable_chunked_prefill = true;
  SchedulingPolicy scheduling_policy = SchedulingPolicy::kFcfs;
  std::optional<bool> warmup;  // nothing: no warmup, but an instance that hands over measures itself

  // Machine
  CpuIsa cpu_isa = CpuIsa::kAuto;
  std::optional<int32_t> threads;       // --threads, OMP_NUM_THREADS; the caller caps it at the cores
  bool pin_threads = true;              // OMP_PROC_BIND=false: no pinning
  double gpu_memory_utilization = 0.9;  // fraction of available memory for weights and KV
  std::optional<uint64_t> kv_cache_memory_bytes;  // --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE (GiB)

  // Parallelism
  int32_t tensor_parallel_size = 1;
  int32_t pipeline_parallel_size = 1;
  int32_t data_parallel_size = 1;
  std::optional<int32_t> data_parallel_rank;
  std::string data_parallel_address = "127.0.0.1";
  uint16_t data_parallel_rpc_port = 29550;
  bool enable_expert_parallel = false;

  // Hand-over
  std::optional<KvTransferConfig> kv_transfer;  // nothing: a single instance
  KvTransport kv_transport = KvTransport::kAuto;
  std::string cluster_secret_file;  // empty: none found (serve warns)
  std::string kv_tls_certfile;      // with the next two, or all three empty
  std::string kv_tls_keyfile;
  std::string kv_tls_ca_certs;
  Duration kv_lease = std::chrono::seconds(30);  // P keeps a prefill this long without a renewal
  bool recompute_on_load_failure = true;         // else the request fails
  std::string host_ip;         // VLLM_HOST_IP, else HCCL_IF_IP: advertised to peers; empty: found out
  std::string socket_ifname;   // GLOO_SOCKET_IFNAME, else HCCL_SOCKET_IFNAME; empty: any
  std::string ucx_transports;  // UCX_TLS; empty: RDMA where there is some, else what a host without it has

  // Asked for, and refused by check_supported() until it is built
  std::optional<int32_t> num_speculative_tokens;
  std::string speculative_method;
  bool recompute_scheduler = false;      // additional_config.recompute_scheduler_enable
  bool prefill_first_scheduler = false;  // additional_config.ascend_scheduler_config.enabled

  std::string profiler_dir;          // VLLM_TORCH_PROFILER_DIR; empty: no profile routes
  std::vector<std::string> notices;  // lines to log at the start, warnings first
};

// `argv`: the words after "serve". Checks every value's type and range. kInvalid: exit 2, message on stderr.
Result<ServeOptions> parse_serve(std::span<const std::string> argv, const Environment& environment);

// What is parsed but not built yet: "not yet supported: --tensor-parallel-size 8, --enable-expert-parallel".
// Call it before anything is loaded.
Result<void> check_supported(const ServeOptions& options);

}  // namespace baton::options
