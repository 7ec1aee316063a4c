#include "model/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include "base/check.h"
#include "checkpoint/fingerprint.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "model/activations.h"
#include "model/latent_attention.h"
#include "model/rope_frequencies.h"
#include "model/weights.h"

namespace baton::model {
namespace {

using checkpoint::Checkpoint;
using checkpoint::ModelConfig;
using kernels::Cpu;
using kernels::Linear;
using kernels::Matrix;

// All that a pass writes, apart from the KV cache.
struct Buffers {
  Activations hidden;        // h [rows, hidden]: the residual stream
  Activations normed;        // [rows, hidden]: what a block reads
  Activations delta;         // [rows, hidden]: what a block adds to h
  Activations q;             // [rows, query_heads * head_dim]; a latent attention has its own q, k, v
  Activations k;             // [rows, kv_heads * head_dim]
  Activations v;             // [rows, kv_heads * head_dim]
  Activations attended;      // [rows, query_heads * value_dim]
  Activations kept;          // its last rows
  Activations gate;          // [rows, the widest dense or shared MLP]
  Activations up;            // as gate
  Activations router;        // [rows, experts], float32
  Activations slot_outputs;  // [rows * experts_per_token, hidden]
  Activations shared;        // [rows, hidden]: of the shared expert
  Activations last_hidden;   // h of the rows whose logits are asked for
  Activations final;         // their final norm
  Activations logits;        // [logit_rows_max, vocab], float32

  static Buffers for_model(const ModelConfig& config, DType dtype, size_t rows, size_t logit_rows) {
    const size_t hidden = config.hidden_size;
    const bool is_latent = config.has_latent_attention();
    const size_t query = is_latent ? 0 : config.query_heads * config.head_dim;
    const size_t kv = is_latent ? 0 : config.kv_heads * config.head_dim;
    const size_t attended = config.query_heads * (is_latent ? config.mla.value_dim : config.head_dim);
    const bool has_dense = std::ranges::find(config.layer_is_moe, false) != config.layer_is_moe.end();
    const size_t intermediate =
        std::max(has_dense ? config.intermediate_size : 0, config.moe.shared_intermediate_size);
    const size_t slots = rows * config.moe.experts_per_token;
    return {.hidden = {dtype, rows, hidden},
            .normed = {dtype, rows, hidden},
            .delta = {dtype, rows, hidden},
            .q = {dtype, rows, query},
            .k = {dtype, rows, kv},
            .v = {dtype, rows, kv},
            .attended = {dtype, rows, attended},
            .kept = {dtype, rows, attended},
            .gate = {dtype, rows, intermediate},
            .up = {dtype, rows, intermediate},
            .router = {DType::kF32, rows, config.moe.experts},
            .slot_outputs = {dtype, slots, hidden},
            .shared = {dtype, config.moe.shared_intermediate_size > 0 ? rows : 0, hidden},
            .last_hidden = {dtype, rows, hidden},
            .final = {dtype, rows, hidden},
            .logits = {DType::kF32, logit_rows, config.vocab_size}};
  }
};

// What a pass knows about its rows.
struct Pass {
  size_t rows = 0;
  std::vector<uint32_t> positions;       // [rows]
  std::vector<kernels::RowSpan> spans;   // one per sequence
  std::span<const uint32_t> logit_rows;  // as the batch has them
};

class Decoder final : public LanguageModel {
 public:
  Decoder(std::shared_ptr<const Checkpoint> checkpoint, const Cpu& cpu, const DecoderOptions& options,
          ModelInfo info, DecoderWeights weights)
      : checkpoint_(std::move(checkpoint)),
        config_(checkpoint_->config),
        cpu_(cpu),
        info_(std::move(info)),
        batch_rows_max_(options.batch_rows_max),
        logit_rows_max_(options.logit_rows_max),
        weights_(std::move(weights)),
        rope_(config_.has_latent_attention()
                  ? kernels::RopeTable()
                  : kernels::RopeTable(rope_frequencies(config_.rope, config_.head_dim), info_.max_position)),
        buffers_(Buffers::for_model(config_, info_.activation_dtype, batch_rows_max_, logit_rows_max_)) {
    if (config_.has_latent_attention())
      latent_.emplace(config_, cpu_, info_.activation_dtype, batch_rows_max_, info_.max_position);
  }

  const ModelInfo& info() const override { return info_; }
  uint32_t batch_rows_max() const override { return batch_rows_max_; }
  uint32_t logit_rows_max() const override { return logit_rows_max_; }

  bool forward(const Batch& batch, kv::KvArena& arena, const LayerHook& hook) override;
  std::span<const float> logits(uint32_t first, uint32_t count) override;

 private:
  void begin(const Batch& batch);
  void attention_input(const LayerWeights& weights, Matrix normed, const kernels::KvLayer& kv);
  void attend(const LayerWeights& weights, const kernels::KvLayer& kv, Matrix attended);
  void dense(const MlpWeights& mlp, Matrix normed, Matrix delta);
  void feed_forward(const LayerWeights& weights, Matrix normed, Matrix delta);
  void experts(const LayerWeights& weights, Matrix normed, Matrix delta);
  kernels::KvLayer kv_layer(kv::KvArena& arena, size_t layer) const;

  const std::shared_ptr<const Checkpoint> checkpoint_;
  const ModelConfig& config_;
  const Cpu& cpu_;
  const ModelInfo info_;
  const uint32_t batch_rows_max_;
  const uint32_t logit_rows_max_;
  const DecoderWeights weights_;
  const kernels::RopeTable rope_;
  Buffers buffers_;
  std::optional<LatentAttention> latent_;  // DeepSeek's
  Pass pass_;
  size_t final_rows_ = 0;  // rows of buffers_.final that logits() may be asked for
};

// Checks the batch and notes where its rows stand.
void Decoder::begin(const Batch& batch) {
  pass_.rows = batch.tokens.size();
  pass_.logit_rows = batch.logit_rows;
  pass_.positions.clear();
  pass_.spans.clear();
  final_rows_ = 0;
  CHECK(pass_.rows <= batch_rows_max_, "{} rows, at most {}", pass_.rows, batch_rows_max_);
  CHECK(pass_.logit_rows.size() <= pass_.rows, "{} logit rows of {}", pass_.logit_rows.size(), pass_.rows);
  for (const SequenceRows& sequence : batch.sequences) {
    const uint64_t end = uint64_t{sequence.first_position} + sequence.rows;
    CHECK(sequence.rows > 0 && end <= info_.max_position, "positions [{}, {}) of {}", sequence.first_position,
          end, info_.max_position);
    CHECK(sequence.blocks.size() >= info_.kv_layout.blocks_for(end), "{} blocks for {} positions",
          sequence.blocks.size(), end);
    pass_.spans.push_back({sequence.blocks, pass_.positions.size(), sequence.rows, sequence.first_position});
    for (uint32_t i = 0; i < sequence.rows; ++i) pass_.positions.push_back(sequence.first_position + i);
  }
  CHECK(pass_.positions.size() == pass_.rows, "sequences of {} rows, {} tokens", pass_.positions.size(),
        pass_.rows);
  if (latent_) latent_->begin(batch.sequences, pass_.spans, pass_.positions);
}

kernels::KvLayer Decoder::kv_layer(kv::KvArena& arena, size_t layer) const {
  const kv::KvLayout& layout = info_.kv_layout;
  return {.base = arena.data() + layout.offset(static_cast<uint32_t>(layer), BlockId{0}),
          .block_stride = layout.block_bytes(),
          .block_size = layout.block_tokens,
          .kv_heads = layout.kv_heads,
          .head_dim = layout.head_dim,
          .value_dim = latent_ ? config_.mla.kv_lora_rank : layout.head_dim,
          .values_in_keys = latent_.has_value(),
          .dtype = layout.dtype};
}

// The model, top to bottom (Touvron et al. 2023; Yang et al. 2025 for Qwen3; DeepSeek-AI 2024 for DeepSeek,
// whose attention is latent_attention.h's):
//   h = embedding(tokens)
//   each layer:  h += output(attention(rope(norm(q(x)), norm(k(x))), v(x))),  x = rms_norm(h)
//                h += mlp(rms_norm(h))
//   logits = head(rms_norm(h))
// In the last layer everything after the attention is computed for the asked rows only.
bool Decoder::forward(const Batch& batch, kv::KvArena& arena, const LayerHook& hook) {
  CHECK(arena.layout() == info_.kv_layout, "the arena has another layout than the model");
  begin(batch);
  if (pass_.rows == 0) return true;
  Matrix h = buffers_.hidden.first(pass_.rows);
  Matrix x = buffers_.normed.first(pass_.rows);
  Matrix delta = buffers_.delta.first(pass_.rows);
  Matrix attended = buffers_.attended.first(pass_.rows);
  const float epsilon = config_.rms_norm_eps;

  kernels::embed(cpu_, weights_.embedding, batch.tokens, h);
  kernels::rms_norm(cpu_, h, weights_.layers.front().attention_norm, epsilon, x);
  for (size_t layer = 0; layer < config_.layers; ++layer) {
    const LayerWeights& weights = weights_.layers[layer];
    const bool is_last = layer + 1 == config_.layers;
    const kernels::KvLayer kv = kv_layer(arena, layer);
    attention_input(weights, x, kv);
    if (is_last && pass_.logit_rows.empty()) return !hook || hook(static_cast<uint32_t>(layer));
    attend(weights, kv, attended);
    if (is_last) {  // keep the asked rows
      const size_t rows = pass_.logit_rows.size();
      kernels::gather_rows(cpu_, h, pass_.logit_rows, buffers_.last_hidden.first(rows));
      kernels::gather_rows(cpu_, attended, pass_.logit_rows, buffers_.kept.first(rows));
      h = buffers_.last_hidden.first(rows);
      attended = buffers_.kept.first(rows);
      x = buffers_.normed.first(rows);
      delta = buffers_.delta.first(rows);
    }
    kernels::linear(cpu_, {.x = attended,
                           .weight = weights.output.weight,
                           .bias = weights.output.bias,
                           .y = delta,
                           .slices = kernels::k_slices(attended.cols)});
    kernels::add_rms_norm(cpu_, h, delta, weights.mlp_norm, epsilon, x);
    feed_forward(weights, x, delta);
    const ConstVector next_norm = is_last ? weights_.final_norm : weights_.layers[layer + 1].attention_norm;
    kernels::add_rms_norm(cpu_, h, delta, next_norm, epsilon, is_last ? buffers_.final.first(h.rows) : x);
    if (hook && !hook(static_cast<uint32_t>(layer))) return false;
  }
  final_rows_ = pass_.logit_rows.size();
  return true;
}

// q, k, v of `normed`; k and v go into the cache.
void Decoder::attention_input(const LayerWeights& weights, Matrix normed, const kernels::KvLayer& kv) {
  if (latent_) return latent_->input(weights.latent, normed, kv);
  const Matrix q = buffers_.q.first(pass_.rows);
  const Matrix k = buffers_.k.first(pass_.rows);
  const Matrix v = buffers_.v.first(pass_.rows);
  const std::array<Linear, 3> products = {{{normed, weights.q.weight, weights.q.bias, q},
                                           {normed, weights.k.weight, weights.k.bias, k},
                                           {normed, weights.v.weight, weights.v.bias, v}}};
  kernels::linear_all(cpu_, products);
  if (config_.qk_norm) {
    kernels::rms_norm_heads(cpu_, q, weights.q_norm, config_.rms_norm_eps);
    kernels::rms_norm_heads(cpu_, k, weights.k_norm, config_.rms_norm_eps);
  }
  kernels::rope(cpu_, q, rope_, pass_.positions);
  kernels::rope(cpu_, k, rope_, pass_.positions);
  kernels::store_kv(cpu_, kv, pass_.spans, k, v);
}

void Decoder::attend(const LayerWeights& weights, const kernels::KvLayer& kv, Matrix attended) {
  if (latent_) return latent_->attend(weights.latent, kv, attended);
  const float scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim));
  kernels::attention(
      cpu_,
      {.kv = kv, .spans = pass_.spans, .q = buffers_.q.first(pass_.rows), .out = attended, .scale = scale});
}

void Decoder::feed_forward(const LayerWeights& weights, Matrix normed, Matrix delta) {
  if (weights.experts.empty()) return dense(weights.mlp, normed, delta);
  experts(weights, normed, delta);
}

// SwiGLU (Shazeer 2020).
void Decoder::dense(const MlpWeights& mlp, Matrix normed, Matrix delta) {
  const Matrix gate = buffers_.gate.first(normed.rows).column_range(0, mlp.gate.rows);
  const Matrix up = buffers_.up.first(normed.rows).column_range(0, mlp.up.rows);
  const std::array<Linear, 2> products = {{{normed, mlp.gate, {}, gate}, {normed, mlp.up, {}, up}}};
  kernels::linear_all(cpu_, products);
  kernels::silu_mul(cpu_, gate, up, gate);
  kernels::linear(
      cpu_, {.x = gate, .weight = mlp.down, .bias = {}, .y = delta, .slices = kernels::k_slices(gate.cols)});
}

// The router's scores choose experts_per_token experts; their outputs are added by weight, and the shared
// expert's.
void Decoder::experts(const LayerWeights& weights, Matrix normed, Matrix delta) {
  const Matrix scores = buffers_.router.first(normed.rows);
  const size_t per_token = config_.moe.experts_per_token;
  const Matrix slots = buffers_.slot_outputs.first(normed.rows * per_token);
  kernels::linear(cpu_, {.x = normed, .weight = weights.router, .bias = {}, .y = scores});
  const kernels::Routing routing = kernels::route(cpu_, scores, per_token,
                                                  {.renormalise = config_.moe.norm_topk_prob,
                                                   .sigmoid = config_.moe.sigmoid,
                                                   .bias = weights.choice_bias,
                                                   .groups = config_.moe.groups,
                                                   .groups_per_row = config_.moe.groups_per_token,
                                                   .scaling = config_.moe.scaling});
  kernels::run_experts(cpu_, normed, routing, weights.experts, 0, slots);
  ConstMatrix shared;
  if (weights.shared.gate.data != nullptr) {
    dense(weights.shared, normed, buffers_.shared.first(normed.rows));
    shared = buffers_.shared.first(normed.rows);
  }
  kernels::combine_experts(cpu_, routing, slots, shared, delta);
}

std::span<const float> Decoder::logits(uint32_t first, uint32_t count) {
  CHECK(count <= logit_rows_max_, "{} rows of logits, at most {}", count, logit_rows_max_);
  CHECK(size_t{first} + count <= final_rows_, "rows [{}, {}) of {}", first, first + count, final_rows_);
  const Matrix y = buffers_.logits.first(count);
  kernels::linear(cpu_, {.x = buffers_.final.first(final_rows_).row_range(first, count),
                         .weight = weights_.head,
                         .bias = {},
                         .y = y});
  return {static_cast<const float*>(y.data), size_t{count} * config_.vocab_size};
}

DType activation_dtype(const ModelConfig& config, DTypeChoice choice) {
  switch (choice) {
    case DTypeChoice::kAuto:
      return config.dtype == DType::kBf16 ? DType::kBf16 : DType::kF32;
    case DTypeChoice::kBfloat16:
      return DType::kBf16;
    case DTypeChoice::kFloat32:
    case DTypeChoice::kHalf:
      return DType::kF32;
  }
  return DType::kF32;
}

std::vector<std::string> notices_of(const ModelConfig& config, DTypeChoice choice,
                                    const DecoderWeights& weights) {
  std::vector<std::string> notices;
  if (choice == DTypeChoice::kHalf || (choice == DTypeChoice::kAuto && config.dtype == DType::kF16)) {
    notices.push_back(
        fmt::format("float16 is not an arithmetic of this build: computing in float32 from the {} weights",
                    dtype_name(config.dtype)));
  }
  if (weights.copied_bytes > 0) {
    notices.push_back(
        fmt::format("{} bytes of weights are copies, of another type, order or alignment than in the file",
                    weights.copied_bytes));
  }
  return notices;
}

Result<void> check_kernels_can(const ModelConfig& config) {
  if (config.has_latent_attention()) {
    const checkpoint::MlaConfig& mla = config.mla;
    const size_t width = mla.kv_lora_rank + mla.rope_dim;
    if (mla.kv_lora_rank % 16 != 0 || mla.kv_lora_rank > kernels::kValueDimMax) {
      return fail(Code::kInvalid,
                  fmt::format("config.json: kv_lora_rank: {}, expected a multiple of 16 up to {}",
                              mla.kv_lora_rank, kernels::kValueDimMax));
    }
    if (width % 16 != 0 || width > kernels::kHeadDimMax) {
      return fail(
          Code::kInvalid,
          fmt::format("config.json: kv_lora_rank + qk_rope_head_dim: {}, expected a multiple of 16 up to {}",
                      width, kernels::kHeadDimMax));
    }
    if (config.head_dim > kernels::kHeadDimMax || mla.value_dim > kernels::kValueDimMax) {
      return fail(Code::kInvalid,
                  fmt::format("config.json: heads of {} and {}, expected at most {} and {}", config.head_dim,
                              mla.value_dim, kernels::kHeadDimMax, kernels::kValueDimMax));
    }
    return {};
  }
  if (config.head_dim % 16 != 0 || config.head_dim > kernels::kValueDimMax) {
    return fail(Code::kInvalid, fmt::format("config.json: head_dim: {}, expected a multiple of 16 up to {}",
                                            config.head_dim, kernels::kValueDimMax));
  }
  return {};
}

Result<void> check_options(const ModelConfig& config, const DecoderOptions& options) {
  if (options.batch_rows_max == 0 || options.logit_rows_max == 0) {
    return fail(Code::kInvalid, "batch_rows_max and logit_rows_max: 0, expected at least 1");
  }
  if (options.max_model_len > config.max_position_embeddings) {
    return fail(Code::kInvalid, fmt::format("max_model_len: {}, expected at most max_position_embeddings {}",
                                            options.max_model_len, config.max_position_embeddings));
  }
  return {};
}

}  // namespace

Result<DTypeChoice> parse_dtype_choice(std::string_view text) {
  if (text == "auto") return DTypeChoice::kAuto;
  if (text == "bfloat16") return DTypeChoice::kBfloat16;
  if (text == "float32" || text == "float") return DTypeChoice::kFloat32;
  if (text == "half" || text == "float16") return DTypeChoice::kHalf;
  return fail(Code::kInvalid,
              fmt::format("dtype: {}, expected auto, bfloat16, float32, float, half or float16", text),
              "dtype");
}

Result<LoadedDecoder> load_decoder(std::shared_ptr<const Checkpoint> checkpoint, const Cpu& cpu,
                                   const DecoderOptions& options) {
  const ModelConfig& config = checkpoint->config;
  TRY_DO(check_kernels_can(config));
  TRY_DO(check_options(config, options));
  TRY(const checkpoint::Fingerprint fingerprint, checkpoint::quick_fingerprint(*checkpoint));
  const DType activation = activation_dtype(config, options.dtype);
  const size_t max_position =
      options.max_model_len > 0 ? options.max_model_len : config.max_position_embeddings;

  ModelInfo info;
  info.architecture = checkpoint::architecture_name(config.architecture);
  info.vocab_size = static_cast<uint32_t>(config.vocab_size);
  info.max_position = static_cast<uint32_t>(max_position);
  info.activation_dtype = activation;
  const bool is_latent = config.has_latent_attention();
  info.answer_has_own_form = is_latent;
  info.kv_layout = {.kind = is_latent ? kv::KvKind::kLatent : kv::KvKind::kKeysAndValues,
                    .layers = static_cast<uint32_t>(config.layers),
                    .kv_heads = is_latent ? 1 : static_cast<uint32_t>(config.kv_heads),
                    .head_dim = static_cast<uint32_t>(
                        is_latent ? config.mla.kv_lora_rank + config.mla.rope_dim : config.head_dim),
                    .block_tokens = options.block_tokens,
                    .dtype = activation};
  TRY_DO(kv::validate(info.kv_layout));
  info.fingerprint = fingerprint.hex();
  DecoderWeights weights = load_weights(*checkpoint, activation, cpu);
  info.weight_bytes = checkpoint->weight_bytes() + weights.copied_bytes;

  LoadedDecoder loaded;
  loaded.notices = notices_of(config, options.dtype, weights);
  loaded.model =
      std::make_unique<Decoder>(std::move(checkpoint), cpu, options, std::move(info), std::move(weights));
  return loaded;
}

}  // namespace baton::model
