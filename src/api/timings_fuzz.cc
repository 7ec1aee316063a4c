// What an instance says of its time: read or refused, and what was read is written so that it reads the same.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/timings.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton;
  const auto timings = api::parse_timings({reinterpret_cast<const char*>(data), size});
  if (!timings) return 0;
  const auto again = api::parse_timings(api::render_timings(*timings));
  CHECK(again == timings, "{}", api::render_timings(*timings));
  return 0;
}
