// Multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1), of which the cache holds one
// row per token: the normed latent [kv_lora_rank], then the rotary key [rope_dim] that all heads share. Two
// forms, equal but for rounding:
//   expanded   K and V of every head are made from the latents again, then attended to like any others: for
//   the positions
//              of a prompt, of which many share the work. Each chunk of a prompt expands the positions before
//              it once more.
//   absorbed   W^UK moves to the query and W^UV to the result (the paper's section 2.1.2), and all heads
//   attend to the
//              latents themselves: for the positions of an answer, which would expand the whole cache for one
//              row.
// The form follows from the position alone (SequenceRows::prompt_tokens), never from the batch: the parity
// law. Owned by a model, called by the engine thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/model_config.h"
#include "kernels/attention.h"
#include "kernels/cpu.h"
#include "kernels/elementwise.h"
#include "model/activations.h"
#include "model/language_model.h"
#include "model/weights.h"

namespace baton::model {

class LatentAttention {
 public:
  // `config`, which has an mla, and `cpu` must outlive it. Passes have at most rows_max rows.
  LatentAttention(const checkpoint::ModelConfig& config, const kernels::Cpu& cpu, DType dtype,
                  size_t rows_max, size_t max_position);

  // Notes which rows of a pass are in a prompt. spans and positions are those of all its rows, one span per
  // sequence; they must outlive the pass.
  void begin(std::span<const SequenceRows> sequences, std::span<const kernels::RowSpan> spans,
             std::span<const uint32_t> positions);

  // Queries of `normed` [rows, hidden]; the latents of its rows go into the cache.
  void input(const LatentAttentionWeights& weights, kernels::Matrix normed, const kernels::KvLayer& kv);

  // attended [rows, heads * value_dim] of the rows of the last input().
  void attend(const LatentAttentionWeights& weights, const kernels::KvLayer& kv, kernels::Matrix attended);

 private:
  void attend_expanded(const LatentAttentionWeights& weights, const kernels::KvLayer& kv,
                       const kernels::RowSpan& span, kernels::Matrix attended);
  void attend_absorbed(const LatentAttentionWeights& weights, const kernels::KvLayer& kv,
                       kernels::Matrix attended);
  kernels::KvLayer expand(const LatentAttentionWeights& weights, ConstMatrix latents, size_t first_head,
                          size_t heads);

  const checkpoint::MlaConfig& mla_;
  const size_t heads_;
  const kernels::Cpu& cpu_;
  const DType dtype_;
  const kernels::RopeTable rope_;
  const float scale_;
  const size_t key_dim_;    // of an expanded head, filled up with zeros to what the kernels take
  const size_t value_dim_;  // the same

  std::span<const uint32_t> positions_;         // [rows]
  std::span<const kernels::RowSpan> spans_;     // of all rows
  std::vector<kernels::RowSpan> prompt_spans_;  // of those in a prompt
  std::vector<kernels::RowSpan> answer_spans_;  // of the others, counted within answer_rows_
  std::vector<uint32_t> answer_rows_;

  Activations q_latent_;    // [rows, q_lora_rank]
  Activations q_;           // [rows, heads * (nope_dim + rope_dim)]
  Activations kv_row_;      // [rows, kv_lora_rank + rope_dim]: what the cache keeps
  Activations q_padded_;    // [rows, heads * key_dim_]
  Activations out_padded_;  // [rows, heads * value_dim_]
  Activations q_answer_;    // q_ of the answer's rows
  Activations absorbed_;    // [rows, heads * (kv_lora_rank + rope_dim)]
  Activations weighed_;     // [rows, heads * kv_lora_rank]: latents, weighed by a head's attention
  Activations answered_;    // [rows, heads * value_dim]

  std::vector<std::byte> latents_;   // up to a span's last position, [positions, kv_lora_rank + rope_dim]
  std::vector<std::byte> products_;  // [positions, heads of one turn * (nope_dim + value_dim)]
  std::vector<std::byte> expanded_;  // one block of K and V of these heads
};

}  // namespace baton::model
