// Mixture of experts: router, experts on gathered rows, weighted sum. An expert is never split over K. Its
// output is rounded once to the activation type; the token's owner adds the weighted outputs in ascending
// expert id in float32 and rounds once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/matrix.h"

namespace baton::kernels {

// The choice of `per_row` experts for each row; slots of a row in ascending expert id.
struct Routing {
  size_t rows = 0;
  size_t per_row = 0;
  std::vector<uint32_t> expert;  // [rows, per_row]
  std::vector<float> weight;     // [rows, per_row]
};

// How logits become a choice and weights.
struct RoutingRule {
  bool renormalise = false;  // the weights are divided by their sum (added in ascending expert id)
  // A score is 1 / (1 + exp(-logit)), not the softmax over the logits of the row (maximum subtracted; exp
  // summed over 16 lanes, then the tree of halves).
  bool sigmoid = false;
  ConstVector bias =
      {};  // f32 [experts] or none: added to the scores for the choice; the weights are the scores
  // `groups` runs of neighbouring experts: only those of the best groups_per_row groups are chosen, ties to
  // the lowest. A group is as good as its two best experts together where there is a bias (DeepSeek-V3), else
  // as its best (V2).
  size_t groups = 1;
  size_t groups_per_row = 1;
  float scaling = 1.0F;  // of the weights, last
};

// The per_row experts with the largest scores (and bias), ties to the lowest id. logits f32 or bf16 [rows,
// experts]; NaN logits: CHECKed nowhere, chosen last.
Routing route(const Cpu& cpu, ConstMatrix logits, size_t per_row, const RoutingRule& rule);

// One expert's weights, as in the checkpoint.
struct Expert {
  ConstMatrix gate;  // [intermediate, hidden]
  ConstMatrix up;    // [intermediate, hidden]
  ConstMatrix down;  // [hidden, intermediate]
};

// slot_outputs[row * per_row + slot] = round(down(silu_mul(gate(x), up(x)))) for every slot whose expert id
// is in [first_expert, first_expert + experts.size()); others are left untouched (another rank's). Efficient
// from one row to thousands: rows are gathered by expert and all experts share a fork and join per product.
// x [rows, hidden]; slot_outputs [rows * per_row, hidden], the type of x.
void run_experts(const Cpu& cpu, ConstMatrix x, const Routing& routing, std::span<const Expert> experts,
                 size_t first_expert, Matrix slot_outputs);

// y[row] = round(sum over slots ascending of weight * slot_output), fma from 0. `shared`, if it has data, is
// one more addend of weight 1 at the end ([rows, hidden]).
void combine_experts(const Cpu& cpu, const Routing& routing, ConstMatrix slot_outputs, ConstMatrix shared,
                     Matrix y);

}  // namespace baton::kernels
