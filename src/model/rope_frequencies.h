// How a config's rope entry becomes the frequencies that kernels::RopeTable rotates with.
#pragma once

#include <vector>

#include "checkpoint/model_config.h"

namespace baton::model {

// inv_freq [head_dim / 2] = theta^(-2i / head_dim) (Su et al. 2021), scaled as the config says.
std::vector<double> rope_frequencies(const checkpoint::RopeConfig& rope, size_t head_dim);

// YaRN's factor of cos and sin, and of the scores of attention, as DeepSeek has them; 1 without YaRN.
double rope_magnitude(const checkpoint::RopeConfig& rope);
double score_magnitude(const checkpoint::RopeConfig& rope);

}  // namespace baton::model
