#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "kernels/cpu/tables.h"
#include "kernels/float_mode.h"

namespace baton::kernels {
namespace {

constexpr float kNoToken = -std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The fastest table this processor has; the choice does not show.
const Ops& fastest() {
  static const Ops& ops = ops_of(available_isas().back());
  return ops;
}

float one(void (*function)(const float*, float*, size_t), float x) {
  const FlushDenormals mode;
  float y = 0;
  function(&x, &y, 1);
  return y;
}

}  // namespace

float exp_f32(float x) { return one(fastest().exp, x); }
float exp2_f32(float x) { return one(fastest().exp2, x); }
float log_f32(float x) { return one(fastest().log, x); }

std::optional<TokenId> argmax(std::span<const float> logits) {
  float best = kNoToken;
  std::optional<TokenId> token;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] > best)) continue;
    best = logits[i];
    token = static_cast<TokenId>(i);
  }
  return token;
}

bool has_nan(std::span<const float> logits) {
  bool found = false;
  for (const float x : logits) found |= x != x;
  return found;
}

ExpSum exp_sum_of_tile(std::span<const float> tile) {
  CHECK(tile.size() <= kVocabularyTile, "{} logits, tile of {}", tile.size(), kVocabularyTile);
  if (has_nan(tile)) return {kNan, kNan};
  if (tile.empty() || *std::max_element(tile.begin(), tile.end()) == kNoToken) return {kNoToken, 0.0F};
  const FlushDenormals mode;
  ExpSum result{};
  fastest().exp_sum(tile.data(), tile.size(), &result.maximum, &result.sum);
  return result;
}

ExpSum merge(ExpSum left, ExpSum right) {
  if (right.maximum == kNoToken) return left;
  if (left.maximum == kNoToken) return right;
  const FlushDenormals mode;
  const float maximum = left.maximum > right.maximum ? left.maximum : right.maximum;
  const float scaled = right.sum * exp_f32(right.maximum - maximum);
  return {maximum, std::fma(left.sum, exp_f32(left.maximum - maximum), scaled)};
}

ExpSum exp_sum(std::span<const float> logits) {
  ExpSum total{kNoToken, 0.0F};
  for (size_t first = 0; first < logits.size(); first += kVocabularyTile) {
    total = merge(total,
                  exp_sum_of_tile(logits.subspan(first, std::min(kVocabularyTile, logits.size() - first))));
  }
  return total;
}

float log_sum_exp(std::span<const float> logits) {
  const ExpSum total = exp_sum(logits);
  return total.maximum == kNoToken ? kNoToken : total.maximum + log_f32(total.sum);
}

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint32_t kMultiplierA = 0xD2511F53U;
  constexpr uint32_t kMultiplierB = 0xCD9E8D57U;
  constexpr uint32_t kWeylA = 0x9E3779B9U;
  constexpr uint32_t kWeylB = 0xBB67AE85U;
  constexpr int kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t a = static_cast<uint64_t>(kMultiplierA) * counter[0];
    const uint64_t b = static_cast<uint64_t>(kMultiplierB) * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key = {key[0] + kWeylA, key[1] + kWeylB};
  }
  return counter;
}

float gumbel(uint64_t seed, uint32_t choice, uint64_t position, TokenId token) {
  float noise = 0;
  gumbel_fill(seed, choice, position, token, {&noise, 1});
  return noise;
}

void gumbel_fill(uint64_t seed, uint32_t choice, uint64_t position, TokenId first_token,
                 std::span<float> noise) {
  CHECK(first_token >= 0, "token {}", first_token);
  constexpr size_t kBatch = 256;
  constexpr size_t kWords = 4;
  const FlushDenormals mode;
  const std::array<uint32_t, 2> key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  uint32_t words[kBatch];
  std::array<uint32_t, kWords> four{};
  for (size_t done = 0; done < noise.size();) {
    const size_t count = std::min(kBatch, noise.size() - done);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t token = static_cast<uint32_t>(first_token) + static_cast<uint32_t>(done + i);
      if (i == 0 || token % kWords == 0) {
        four = philox4x32(
            {token / 4, choice, static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32)}, key);
      }
      words[i] = four[token % kWords];
    }
    fastest().gumbel(words, noise.data() + done, count);
    done += count;
  }
}

}  // namespace baton::kernels
