// The metaserver's URL in a request: what is taken names a host and a path that can stand in a request line.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "serve/metaserver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed = baton::serve::parse_metaserver({reinterpret_cast<const char*>(data), size});
  if (!parsed) return 0;
  CHECK(!parsed->at.host.empty());
  CHECK(parsed->target.starts_with('/'));
  CHECK(std::ranges::all_of(parsed->target, [](unsigned char c) { return c > ' ' && c < 0x7f; }));
  return 0;
}
