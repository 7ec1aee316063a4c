#include "options/serve_configs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "options/spelling.h"

namespace baton::options {
namespace {

using enum Treatment;

constexpr std::string_view kSpeculative = "--speculative-config";
constexpr std::string_view kCompilation = "--compilation-config";
constexpr std::string_view kAdditional = "--additional-config";
constexpr std::string_view kTorchair = "--additional-config.torchair_graph_config";
constexpr int64_t kDraftsMax = 64;

constexpr auto kSpeculativeKeys = std::to_array<Key>({
    {"num_speculative_tokens"},
    {"method"},
    {"model"},
    {"draft_tensor_parallel_size"},
    {"prompt_lookup_max"},
    {"prompt_lookup_min"},
});

constexpr auto kCompilationKeys = std::to_array<Key>({
    {"cudagraph_mode", kMapped},
    {"level", kNoEffect},
    {"mode", kNoEffect},
    {"cudagraph_capture_sizes", kNoEffect},
    {"use_inductor", kNoEffect},
    {"custom_ops", kNoEffect},
    {"splitting_ops", kNoEffect},
});

constexpr auto kAdditionalKeys = std::to_array<Key>({
    {"recompute_scheduler_enable", kMapped},
    {"ascend_scheduler_config", kMapped},
    {"torchair_graph_config", kMapped},
    {"finegrained_tp_config", kNoEffect},
    {"lm_head_tensor_parallel_size", kNoEffect},
    {"lmhead_tensor_parallel_size", kNoEffect},
    {"oproj_tensor_parallel_size", kNoEffect},
    {"enable_shared_expert_dp", kNoEffect},
    {"multistream_overlap_shared_expert", kNoEffect},
    {"enable_weight_nz_layout", kNoEffect},
    {"enable_prefill_optimizations", kNoEffect},
    {"enable_kv_nz", kNoEffect},
    {"weight_prefetch_config", kNoEffect},
    {"expert_map_path", kNoEffect},
    {"refresh", kNoEffect},
});

constexpr auto kTorchairKeys = std::to_array<Key>({
    {"enabled", kNoEffect},
    {"mode", kNoEffect},
    {"graph_batch_sizes", kNoEffect},
    {"graph_batch_sizes_init", kNoEffect},
    {"use_cached_graph", kNoEffect},
    {"use_cached_kv_cache_bytes", kNoEffect},
    {"enable_multistream_mla", kNoEffect},
    {"enable_multistream_moe", kNoEffect},
    {"enable_super_kernel", kNoEffect},
    {"enable_view_optimize", kNoEffect},
    {"enable_frozen_parameter", kNoEffect},
    {"enable_kv_nz", kNoEffect},
});

Result<void> check_torchair(const json::object& config, bool enforce_eager, bool strict, Remarks remarks) {
  TRY_DO(check_keys(config, kTorchair, kTorchairKeys, strict, remarks));
  TRY(const auto enabled, key_switch(config, kTorchair, "enabled"));
  if (enabled.value_or(false) && enforce_eager) {
    return fail(Code::kInvalid,
                fmt::format("{}.enabled: true, expected false with --enforce-eager", kTorchair));
  }
  if (const json::value* sizes = config.if_contains("graph_batch_sizes")) {
    const bool fits =
        sizes->is_array() && std::ranges::all_of(sizes->get_array(), [](const json::value& size) {
          return size.is_int64() && size.get_int64() > 0;
        });
    if (!fits) {
      return fail(Code::kInvalid, fmt::format("{}.graph_batch_sizes: {}, expected a list of sizes", kTorchair,
                                              excerpt(*sizes)));
    }
  }
  if (enabled.value_or(false)) return {};
  for (const auto& entry : config) {
    const bool is_on = entry.value().is_bool() && entry.value().get_bool();
    const bool is_list = entry.value().is_array() && !entry.value().get_array().empty();
    if (!is_on && !is_list) continue;
    return fail(Code::kInvalid, fmt::format("{}.{}: {}, expected enabled to be true beside it", kTorchair,
                                            std::string_view(entry.key()), excerpt(entry.value())));
  }
  return {};
}

Result<void> read_scheduler(const json::object& config, ServeOptions& options) {
  constexpr std::string_view kPlace = "--additional-config.ascend_scheduler_config";
  TRY(const auto enabled, key_switch(config, kPlace, "enabled"));
  options.prefill_first_scheduler = enabled.value_or(false);
  TRY(const auto chunked, key_switch(config, kPlace, "enable_chunked_prefill"));
  if (options.prefill_first_scheduler && chunked) options.enable_chunked_prefill = *chunked;
  return {};
}

// D gives a request that finds no KV block back to the proxy; elsewhere the key means nothing.
void note_recompute_scheduler(const ServeOptions& options, Remarks remarks) {
  const std::string key = fmt::format("{}.recompute_scheduler_enable", kAdditional);
  const bool is_decode = options.kv_transfer && options.kv_transfer->role == KvRole::kConsumer;
  if (!is_decode) {
    remarks.no_effect.push_back(key);
    return;
  }
  remarks.warnings.push_back(
      key +
      ": a request that finds no KV block is given back to a proxy that says X-Baton-Resume, for others "
      "recomputed here");
}

}  // namespace

Result<void> read_speculative_config(const json::object& config, ServeOptions& options, bool strict,
                                     Remarks remarks) {
  TRY_DO(check_keys(config, kSpeculative, kSpeculativeKeys, strict, remarks));
  TRY(const auto count, key_integer(config, kSpeculative, "num_speculative_tokens", 1, kDraftsMax));
  if (!count) {
    return fail(Code::kInvalid,
                fmt::format("{}.num_speculative_tokens: missing, expected an integer from 1 to {}",
                            kSpeculative, kDraftsMax));
  }
  TRY(const auto method, key_text(config, kSpeculative, "method"));
  if (method != "mtp" && method != "deepseek_mtp" && method != "ngram") {
    return fail(Code::kInvalid, fmt::format("{}.method: {}, expected one of mtp, deepseek_mtp, ngram",
                                            kSpeculative, method ? excerpt(*method) : "missing"));
  }
  options.num_speculative_tokens = static_cast<int32_t>(*count);
  options.speculative_method = *method == "deepseek_mtp" ? "mtp" : *method;
  return {};
}

Result<void> read_compilation_config(const json::object& config, bool strict, Remarks remarks) {
  constexpr auto kModes = std::to_array<std::string_view>(
      {"NONE", "PIECEWISE", "FULL", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"});
  TRY_DO(check_keys(config, kCompilation, kCompilationKeys, strict, remarks));
  TRY(const auto mode, key_text(config, kCompilation, "cudagraph_mode"));
  if (!mode) return {};
  std::string upper = *mode;
  std::ranges::transform(upper, upper.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (std::ranges::find(kModes, upper) == kModes.end()) {
    return fail(Code::kInvalid, fmt::format("{}.cudagraph_mode: {}, expected one of {}", kCompilation,
                                            excerpt(*mode), fmt::join(kModes, ", ")));
  }
  remarks.no_effect.push_back(fmt::format("{}.cudagraph_mode", kCompilation));
  return {};
}

Result<void> read_additional_config(const json::object& config, bool enforce_eager, ServeOptions& options,
                                    bool strict, Remarks remarks) {
  TRY_DO(check_keys(config, kAdditional, kAdditionalKeys, strict, remarks));
  TRY(const auto recompute, key_switch(config, kAdditional, "recompute_scheduler_enable"));
  options.recompute_scheduler = recompute.value_or(false);
  if (options.recompute_scheduler) note_recompute_scheduler(options, remarks);
  TRY(const json::object* scheduler, key_object(config, kAdditional, "ascend_scheduler_config"));
  if (scheduler != nullptr) TRY_DO(read_scheduler(*scheduler, options));
  TRY(const json::object* torchair, key_object(config, kAdditional, "torchair_graph_config"));
  if (torchair != nullptr) TRY_DO(check_torchair(*torchair, enforce_eager, strict, remarks));
  if (config.contains("lm_head_tensor_parallel_size")) {
    remarks.warnings.push_back(
        "--additional-config.lm_head_tensor_parallel_size: vllm-ascend ignores this spelling (did you mean "
        "lmhead_tensor_parallel_size?)");
  }
  return {};
}

}  // namespace baton::options
