#include "base/ids.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <span>

#include "base/check.h"

namespace baton {
namespace {

// Random bytes that a thread has fetched and not yet given out: a call of the system for sixteen ids.
struct Entropy {
  std::array<uint8_t, 256> bytes;
  size_t used = sizeof bytes;
};

template <class Id>
Id draw() {
  thread_local Entropy entropy;
  Id id;
  if (entropy.used == entropy.bytes.size()) {
    // As many bytes as getrandom gives in one piece.
    const ssize_t got = getrandom(entropy.bytes.data(), entropy.bytes.size(), 0);
    CHECK(got == static_cast<ssize_t>(entropy.bytes.size()));
    entropy.used = 0;
  }
  const std::span<uint8_t> drawn = std::span(entropy.bytes).subspan(entropy.used, id.bytes.size());
  std::ranges::copy(drawn, id.bytes.begin());
  std::ranges::fill(drawn, uint8_t{0});  // nobody reads it here again
  entropy.used += id.bytes.size();
  return id;
}

}  // namespace

template <>
Incarnation random_id<Incarnation>() {
  return draw<Incarnation>();
}
template <>
TransferId random_id<TransferId>() {
  return draw<TransferId>();
}
template <>
HandoverId random_id<HandoverId>() {
  return draw<HandoverId>();
}

}  // namespace baton
