// The command lines of vllm-ascend's tutorial, as they stand there, with the template's $2..$7 filled in.
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "options/proxy_options.h"
#include "options/serve_options.h"

namespace baton::options {
namespace {

// Words as a shell makes them: blanks part them, single quotes keep them, a backslash before a newline joins
// lines.
std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> out;
  std::string word;
  bool quoted = false;
  bool open = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\'') {
      quoted = !quoted;
      open = true;
    } else if (!quoted && text[i] == '\\' && i + 1 < text.size() && text[i + 1] == '\n') {
      ++i;
    } else if (!quoted && (text[i] == ' ' || text[i] == '\n')) {
      if (open) out.push_back(word);
      word.clear();
      open = false;
    } else {
      word += text[i];
      open = true;
    }
  }
  if (open) out.push_back(word);
  return out;
}

const Environment kEnvironment = {
    {"VLLM_VERSION", "0.11.0"},
    {"VLLM_RPC_TIMEOUT", "3600000"},
    {"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", "30000"},
    {"HCCL_EXEC_TIMEOUT", "204"},
    {"HCCL_CONNECT_TIMEOUT", "120"},
    {"HCCL_IF_IP", "192.0.0.1"},
    {"GLOO_SOCKET_IFNAME", "eth0"},
    {"TP_SOCKET_IFNAME", "eth0"},
    {"HCCL_SOCKET_IFNAME", "eth0"},
    {"OMP_PROC_BIND", "false"},
    {"OMP_NUM_THREADS", "10"},
    {"PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True"},
    {"VLLM_ASCEND_ENABLE_MLAPO", "1"},
    {"HCCL_BUFFSIZE", "256"},
    {"TASK_QUEUE_ENABLE", "1"},
    {"HCCL_OP_EXPANSION_MODE", "AIV"},
    {"VLLM_TORCH_PROFILER_DIR", "./vllm_profile"},
    {"VLLM_TORCH_PROFILER_WITH_STACK", "1"},
    {"VLLM_USE_V1", "1"},
    {"ASCEND_RT_VISIBLE_DEVICES", "0"},
    {"ASCEND_BUFFER_POOL", "4:8"},
};

constexpr std::string_view kPrefillHead = R"(/path_to_weight/DeepSeek-V3.1_w8a8mix_mtp \
  --host 0.0.0.0 \
  --port 7100 \
  --data-parallel-size 2 \
  --data-parallel-rank 1 \
  --data-parallel-address 141.0.0.1 \
  --data-parallel-rpc-port 12321 \
  --tensor-parallel-size 8 \
  --enable-expert-parallel \
  --seed 1024 \
  --served-model-name ds_r1 \
  --max-model-len 40000 \
  --max-num-batched-tokens 16384 \
  --max-num-seqs 8 \
  --enforce-eager \
  --trust-remote-code \
  --gpu-memory-utilization 0.9  \
  --quantization ascend \
  --no-enable-prefix-caching \
  --speculative-config '{"num_speculative_tokens": 1, "method":"deepseek_mtp"}' \
  --additional-config '{"recompute_scheduler_enable":true,"enable_shared_expert_dp": true}' \
)";

constexpr std::string_view kDecodeHead = R"(/path_to_weight/DeepSeek-V3.1_w8a8mix_mtp \
  --host 0.0.0.0 \
  --port 7115 \
  --data-parallel-size 32 \
  --data-parallel-rank 31 \
  --data-parallel-address 141.0.0.3 \
  --data-parallel-rpc-port 12321 \
  --tensor-parallel-size 1 \
  --enable-expert-parallel \
  --seed 1024 \
  --served-model-name ds_r1 \
  --max-model-len 40000 \
  --max-num-batched-tokens 256 \
  --max-num-seqs 40 \
  --trust-remote-code \
  --gpu-memory-utilization 0.94  \
  --quantization ascend \
  --no-enable-prefix-caching \
  --speculative-config '{"num_speculative_tokens": 1, "method":"deepseek_mtp"}' \
  --compilation-config '{"cudagraph_mode": "FULL_DECODE_ONLY"}' \
  --additional-config '{"recompute_scheduler_enable":true,"multistream_overlap_shared_expert": true,"lm_head_tensor_parallel_size":16}' \
)";

std::string transfer_config(std::string_view connector, std::string_view module, std::string_view role,
                            std::string_view port, std::string_view engine) {
  return "  --kv-transfer-config \\\n  '{\"kv_connector\": \"" + std::string(connector) +
         "\",\n  \"kv_role\": \"" + std::string(role) + "\",\n  \"kv_port\": \"" + std::string(port) +
         "\",\n  \"engine_id\": \"" + std::string(engine) +
         "\",\n  \"kv_connector_module_path\": \"vllm_ascend.distributed." + std::string(module) + "\",\n" +
         R"(  "kv_connector_extra_config": {
            "use_ascend_direct": true,
            "prefill": {
                    "dp_size": 2,
                    "tp_size": 8
             },
             "decode": {
                    "dp_size": 32,
                    "tp_size": 1
             }
      }
  }')";
}

TEST(Tutorial, PrefillLinesSayWhatTheySay) {
  struct Row {
    std::string_view connector;
    std::string_view module;
    Connector kind;
    std::string_view refusal;
  };
  for (const Row& row :
       {Row{"MooncakeConnector", "mooncake_connector", Connector::kPull, ""},
        Row{"MooncakeLayerwiseConnector", "mooncake_layerwise_connector", Connector::kLayerwise, ""}}) {
    const auto argv = words(std::string(kPrefillHead) +
                            transfer_config(row.connector, row.module, "kv_producer", "30100", "1"));
    const auto options = parse_serve(argv, kEnvironment);
    ASSERT_TRUE(options) << options.error().message;
    EXPECT_EQ(options->model, "/path_to_weight/DeepSeek-V3.1_w8a8mix_mtp");
    EXPECT_EQ(options->port, 7100);
    EXPECT_EQ(options->served_model_names, std::vector<std::string>{"ds_r1"});
    EXPECT_EQ(options->max_model_len, 40000);
    EXPECT_EQ(options->max_num_batched_tokens, 16384);
    EXPECT_EQ(options->max_num_seqs, 8);
    EXPECT_EQ(options->seed, 1024U);
    EXPECT_FALSE(options->enable_prefix_caching);
    EXPECT_TRUE(options->recompute_scheduler);
    EXPECT_NE(options->notices.back().find("--additional-config.recompute_scheduler_enable"),
              std::string::npos);
    EXPECT_EQ(options->threads, 10);
    EXPECT_FALSE(options->pin_threads);
    EXPECT_EQ(options->host_ip, "192.0.0.1");
    EXPECT_EQ(options->socket_ifname, "eth0");
    ASSERT_TRUE(options->kv_transfer);
    EXPECT_EQ(options->kv_transfer->connector, row.kind);
    EXPECT_EQ(options->kv_transfer->role, KvRole::kProducer);
    EXPECT_EQ(options->kv_transfer->kv_port, 30100);
    EXPECT_EQ(options->kv_transfer->engine_id, "1");
    EXPECT_EQ(options->kv_transfer->decode.dp_size, 32);
    EXPECT_EQ(
        check_supported(*options).error().message,
        "not yet supported: --tensor-parallel-size 8, --data-parallel-size 2, --enable-expert-parallel, "
        "--quantization ascend, --speculative-config" +
            std::string(row.refusal));
  }
}

TEST(Tutorial, DecodeLinesFoldWhatHasNoEffectIntoOneNotice) {
  const auto argv =
      words(std::string(kDecodeHead) +
            transfer_config("MooncakeConnector", "mooncake_connector", "kv_consumer", "30200", "2"));
  const auto options = parse_serve(argv, kEnvironment);
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->kv_transfer->role, KvRole::kConsumer);
  EXPECT_EQ(options->num_speculative_tokens, 1);
  EXPECT_EQ(options->speculative_method, "mtp");
  ASSERT_EQ(options->notices.size(), 3U);
  EXPECT_EQ(options->notices[0],
            "--additional-config.recompute_scheduler_enable: a request that finds no KV block is given back "
            "to a proxy that says X-Baton-Resume, for others recomputed here");
  EXPECT_EQ(
      options->notices[1],
      "--additional-config.lm_head_tensor_parallel_size: vllm-ascend ignores this spelling (did you mean "
      "lmhead_tensor_parallel_size?)");
  EXPECT_TRUE(options->notices[2].starts_with("accepted, no effect here: --trust-remote-code, "))
      << options->notices[2];
  EXPECT_NE(options->notices[2].find("VLLM_USE_V1"), std::string::npos);
}

TEST(Tutorial, LlmDataDistBlocksAreServedByThePullConnector) {
  const auto argv = words(R"(/model --kv-transfer-config \
    '{"kv_connector": "LLMDataDistCMgrConnector",
      "kv_buffer_device": "npu",
      "kv_role": "kv_consumer",
      "kv_parallel_size": "1",
      "kv_port": "20001",
      "engine_id": "0",
      "kv_connector_module_path": "vllm_ascend.distributed.llmdatadist_c_mgr_connector"
    }' \
--additional-config '{"ascend_scheduler_config":{"enabled":false}, "torchair_graph_config":{"enabled":true,"enable_multistream_mla":true,"enable_multistream_moe":true,"graph_batch_sizes":[28], "enable_super_kernel":true, "use_cached_graph":true},"enable_weight_nz_layout":true}')");
  const auto options = parse_serve(argv, {});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->kv_transfer->connector, Connector::kPull);
  EXPECT_EQ(options->notices[0],
            "LLMDataDistCMgrConnector is served by the pull connector; no rank table is read");
  EXPECT_TRUE(check_supported(*options));
}

TEST(Tutorial, TheBlockWithoutItsBackslashSaysSo) {
  const auto options = parse_serve(words("/model --kv-transfer-config"), {});
  EXPECT_EQ(options.error().message,
            "--kv-transfer-config: needs a JSON value (missing backslash at the end of a line?)");
}

TEST(Tutorial, ProxyLinesGiveFourPrefillAndThirtyTwoDecodeInstances) {
  std::string text =
      " \\\n  --port 1999 \\\n  --host 192.0.0.1 \\\n  --prefiller-hosts \\\n    192.0.0.1 \\\n    192.0.0.1 "
      "\\\n    192.0.0.2 \\\n    192.0.0.2 \\\n  --prefiller-ports  \\\n    7100 7101 7100 7101 \\\n  "
      "--decoder-hosts \\\n";
  for (const std::string_view host : {"192.0.0.3", "192.0.0.4"}) {
    for (int i = 0; i < 16; ++i) text += "    " + std::string(host) + "  \\\n";
  }
  const std::string ports =
      "    7100 7101 7102 7103 7104 7105 7106 7107 7108 7109 7110 7111 7112 7113 7114 7115\\\n";
  text += "  --decoder-ports  \\\n" + ports + ports;
  const auto options = parse_proxy(words(text), {});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->port, 1999);
  ASSERT_EQ(options->prefillers.size(), 4U);
  EXPECT_EQ(options->prefillers[3], (Endpoint{"192.0.0.2", 7101}));
  ASSERT_EQ(options->decoders.size(), 32U);
  EXPECT_EQ(options->decoders[31], (Endpoint{"192.0.0.4", 7115}));
  EXPECT_TRUE(options->notices.empty());

  const auto layerwise = parse_proxy(words("    --host 192.0.0.1 " + text), {});
  ASSERT_TRUE(layerwise) << layerwise.error().message;
  EXPECT_EQ(layerwise->notices, std::vector<std::string>{"--host given twice, using the last"});
}

TEST(Tutorial, TheOldQuartetExpandsHostsAndPorts) {
  const auto options =
      parse_proxy(words("--prefiller-hosts A B --prefiller-hosts-num 2 2 --prefiller-ports 9000 9000 "
                        "--prefiller-ports-inc 2 2 --decoder-hosts C --decoder-ports 9100"),
                  {});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->prefillers, (std::vector<Endpoint>{{"A", 9000}, {"A", 9001}, {"B", 9000}, {"B", 9001}}));
}

TEST(PortRule, IsOnePortPerRank) {
  RankPlace first{.dp_rank = 1, .tp_size = 8};
  EXPECT_EQ(side_channel_port(30000, first), 30008);
  first.tp_rank = 7;
  EXPECT_EQ(handshake_port(30000, first), 30015);
  EXPECT_EQ(handshake_port(30200, RankPlace{.dp_rank = 31}), 30231);
  EXPECT_EQ(
      handshake_port(
          30000,
          RankPlace{.tp_size = 2, .pp_size = 2, .pcp_size = 2, .pp_rank = 1, .pcp_rank = 1, .tp_rank = 1}),
      30007);
  EXPECT_EQ(
      side_channel_port(65530, first).error().message,
      "--kv-transfer-config.kv_port: 65530 gives port 65538 to data-parallel rank 1, expected at most 65535");
}

}  // namespace
}  // namespace baton::options
