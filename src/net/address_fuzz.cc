// Any text: what parses is written and read back as the same address.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "net/address.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  for (const std::optional<uint16_t> port : {std::optional<uint16_t>(), std::optional<uint16_t>(80)}) {
    const auto address = baton::net::parse_address(text, port);
    if (!address) continue;
    const auto again = baton::net::parse_address(baton::net::to_string(*address));
    CHECK(again.has_value());
    CHECK(*again == *address);
  }
  return 0;
}
