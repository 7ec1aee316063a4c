#include "checkpoint/model_config.h"

#include <gtest/gtest.h>

namespace baton::checkpoint {
namespace {

// A valid Qwen3 config with `extra` added; later keys win, so `extra` may replace any.
std::string qwen3_with(std::string_view extra) {
  return std::string(R"({"architectures":["Qwen3ForCausalLM"],"vocab_size":1000,"hidden_size":128,
    "num_hidden_layers":4,"num_attention_heads":8,"num_key_value_heads":2,"head_dim":32,"intermediate_size":256,
    "max_position_embeddings":4096)") +
         (extra.empty() ? "" : ",") + std::string(extra) + "}";
}

Result<ModelConfig> parse(std::string_view extra) {
  return parse_model_config(qwen3_with(extra), "config.json");
}

TEST(ModelConfig, ReadsTheSameFromTransformers4And5) {
  const auto four =
      parse(R"("rope_theta":1e6,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
    "high_freq_factor":4.0,"original_max_position_embeddings":128},"torch_dtype":"float16")");
  const auto five = parse(R"("rope_parameters":{"rope_theta":1000000,"rope_type":"llama3","factor":8,
    "low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":128},"dtype":"float16")");
  for (const auto& config : {four, five}) {
    ASSERT_TRUE(config.has_value()) << config.error().message;
    EXPECT_EQ(config->dtype, DType::kF16);
    EXPECT_EQ(config->rope.theta, 1e6);
    EXPECT_EQ(config->rope.scaling, RopeScaling::kLlama3);
    EXPECT_EQ(config->rope.factor, 8.0);
    EXPECT_EQ(config->rope.original_max_position_embeddings, 128.0);
    EXPECT_TRUE(config->qk_norm);
    EXPECT_FALSE(config->qkv_bias);
  }
}

TEST(ModelConfig, ALayerHasExpertsUnlessItIsListedOrNotOnTheStep) {
  const auto config =
      parse(R"("architectures":["Qwen3MoeForCausalLM"],"num_experts":16,"num_experts_per_tok":4,
    "moe_intermediate_size":32,"mlp_only_layers":[1],"decoder_sparse_step":2,"num_hidden_layers":6)");
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->layer_is_moe, (std::vector<bool>{false, false, false, true, false, true}));
  EXPECT_FALSE(config->moe.norm_topk_prob);
}

// A valid DeepSeek-V3 config with `extra` added.
std::string deepseek_with(std::string_view extra) {
  return qwen3_with(
      R"("architectures":["DeepseekV3ForCausalLM"],"q_lora_rank":80,"kv_lora_rank":64,"qk_nope_head_dim":24,
    "qk_rope_head_dim":16,"v_head_dim":20,"n_routed_experts":16,"num_experts_per_tok":4,"moe_intermediate_size":32,
    "n_shared_experts":2,"n_group":4,"topk_group":2,"routed_scaling_factor":2.5,"first_k_dense_replace":1,
    "rope_scaling":{"type":"yarn","factor":40,"original_max_position_embeddings":4096,"mscale":1.0,"mscale_all_dim":0.7})" +
      std::string(extra.empty() ? "" : ",") + std::string(extra));
}

TEST(ModelConfig, ReadsTheTwoGenerationsOfDeepseek) {
  const auto v3 = parse_model_config(deepseek_with(""), "config.json");
  ASSERT_TRUE(v3.has_value()) << v3.error().message;
  EXPECT_EQ(v3->mla.kv_lora_rank, 64U);
  EXPECT_EQ(v3->head_dim, 40U);
  EXPECT_EQ(v3->layer_is_moe, (std::vector<bool>{false, true, true, true}));
  EXPECT_TRUE(v3->moe.sigmoid && v3->moe.choice_bias && v3->moe.norm_topk_prob);
  EXPECT_EQ(v3->moe.groups, 4U);
  EXPECT_EQ(v3->moe.groups_per_token, 2U);
  EXPECT_EQ(v3->moe.scaling, 2.5F);
  EXPECT_EQ(v3->moe.shared_intermediate_size, 64U);
  EXPECT_EQ(v3->rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(v3->rope.beta_fast, 32.0);
  EXPECT_EQ(v3->rope.mscale_all_dim, 0.7);
  const auto v2 = parse_model_config(
      deepseek_with(R"("architectures":["DeepseekV2ForCausalLM"],"q_lora_rank":null)"), "config.json");
  ASSERT_TRUE(v2.has_value()) << v2.error().message;
  EXPECT_EQ(v2->mla.q_lora_rank, 0U);
  EXPECT_FALSE(v2->moe.sigmoid || v2->moe.choice_bias || v2->moe.norm_topk_prob);
  EXPECT_EQ(v2->moe.groups, 1U) << "greedy: no groups";
}

TEST(ModelConfig, EachWrongValueOfDeepseekIsNamed) {
  const std::pair<const char*, const char*> rows[] = {
      {R"("kv_lora_rank":null)", "kv_lora_rank: missing, expected an integer from 1"},
      {R"("qk_rope_head_dim":15)", "qk_rope_head_dim: 15, expected an even number"},
      {R"("scoring_func":"tanh")", "scoring_func: tanh, expected sigmoid or softmax"},
      {R"("topk_method":"best")", "topk_method: best, expected noaux_tc, group_limited_greedy or greedy"},
      {R"("n_group":3,"topk_group":2)", "n_group: 3, expected a divisor of n_routed_experts 16"},
      {R"("n_group":8,"topk_group":1)",
       "num_experts_per_tok: 4, expected at most the 2 experts of topk_group 1 groups"},
      {R"("attention_bias":true)", "attention_bias: true, expected false"},
      {R"("rope_scaling":{"type":"yarn","factor":2,"original_max_position_embeddings":64,"beta_fast":1})",
       "beta_fast: 1, expected more than beta_slow 1"}};
  for (const auto& [extra, message] : rows) {
    const auto config = parse_model_config(deepseek_with(extra), "config.json");
    ASSERT_FALSE(config.has_value()) << extra;
    EXPECT_NE(config.error().message.find(message), std::string::npos) << config.error().message;
  }
}

TEST(ModelConfig, EachWrongValueIsNamedWithItsKeyAndTheExpectation) {
  struct Row {
    const char* extra;
    const char* message;
  };
  const Row rows[] = {
      {R"("architectures":["GPT2LMHeadModel"])",
       "architectures: [GPT2LMHeadModel], expected one of Qwen3ForCausalLM, "
       "Qwen3MoeForCausalLM, Qwen2ForCausalLM, LlamaForCausalLM"},
      {R"("hidden_size":null)", "hidden_size: missing, expected an integer from 1 to"},
      {R"("hidden_size":"128")", "hidden_size: \"128\", expected an integer"},
      {R"("vocab_size":-1)", "vocab_size: -1, expected an integer from 1"},
      {R"("num_key_value_heads":3)", "num_key_value_heads: 3, expected a divisor of num_attention_heads 8"},
      {R"("head_dim":33)", "head_dim: 33, expected an even number"},
      {R"("rms_norm_eps":0)", "rms_norm_eps: 0, expected a number from 1e-12"},
      {R"("hidden_act":"gelu")", "hidden_act: gelu, expected silu"},
      {R"("torch_dtype":"int8")", "torch_dtype: int8, expected bfloat16, float16 or float32"},
      {R"("eos_token_id":1000)", "eos_token_id: 1000, expected at most 4096 integers from 0 to 999"},
      {R"("use_sliding_window":true)", "use_sliding_window: true, expected false"},
      {R"("architectures":["MistralForCausalLM"],"sliding_window":4095)",
       "sliding_window: 4095, expected null or at least max_position_embeddings 4096"},
      {R"("layer_types":["sliding_attention"])", "layer_types: sliding_attention, expected full_attention"},
      {R"("quantization_config":{"quant_method":"awq"})",
       "quantization_config: quant_method: awq, expected fp8"},
      {R"("quantization_config":{"quant_method":"fp8","fmt":"e5m2"})",
       "quantization_config: fmt: e5m2, expected e4m3"},
      {R"("quantization_config":{"quant_method":"fp8"})", "weight_block_size: [], expected two numbers"},
      {R"("rope_scaling":{"type":"yarn"})",
       "config.json: rope_scaling: rope_type: yarn, expected default, linear or llama3"},
      {R"("rope_scaling":{"type":"linear"})", "factor: missing, expected a number from 1"},
      {R"("rope_theta":1e4,"rope_parameters":{"rope_theta":1e6})",
       "rope_theta: 1000000, expected the outer rope_theta"},
      {R"("tie_word_embeddings":1)", "tie_word_embeddings: 1, expected true or false"},
      {R"("architectures":["Qwen3MoeForCausalLM"],"num_experts":4,"num_experts_per_tok":5)",
       "num_experts_per_tok: 5, expected an integer from 1 to 4"},
  };
  for (const Row& row : rows) {
    const auto config = parse(row.extra);
    ASSERT_FALSE(config.has_value()) << row.extra;
    EXPECT_NE(config.error().message.find(row.message), std::string::npos) << config.error().message;
    EXPECT_TRUE(config.error().message.starts_with("config.json: ")) << config.error().message;
    EXPECT_EQ(config.error().message.rfind("config.json"), 0U) << config.error().message;
  }
  EXPECT_NE(parse_model_config("{", "config.json").error().message.find("not valid JSON"), std::string::npos);
}

TEST(GenerationConfig, TakesAnEndIdOrAListAndChecksRanges) {
  const auto list =
      parse_generation_config(R"({"eos_token_id":[7,9],"temperature":0.6,"top_k":20})", "g", 10);
  ASSERT_TRUE(list.has_value());
  EXPECT_EQ(list->eos_token_ids, (std::vector<TokenId>{7, 9}));
  EXPECT_EQ(list->temperature, 0.6);
  EXPECT_EQ(list->top_k, 20);
  EXPECT_FALSE(list->top_p.has_value());
  EXPECT_EQ(parse_generation_config(R"({"eos_token_id":7})", "g", 10)->eos_token_ids,
            (std::vector<TokenId>{7}));
  EXPECT_EQ(parse_generation_config(R"({"top_p":1.5})", "g", 10).error().message,
            "g: top_p: 1.5, expected a number from 1e-09 to 1");
}

}  // namespace
}  // namespace baton::checkpoint
