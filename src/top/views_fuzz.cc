// What somebody answers to GET /debug/requests: read or refused, and nothing of it reaches a terminal as a
// command.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "top/table.h"
#include "top/views.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string shown = top::shown_text(text);
  CHECK(shown.size() <= top::kTextBytesMax && top::shown_text(shown) == shown);
  const auto proxy = top::parse_proxy_view(text);
  const auto instance = top::parse_instance_view(text);
  top::Cluster cluster{.proxy = "proxy:1", .view = proxy.value_or(top::ProxyView()), .instances = {}};
  for (const top::KnownInstance& known : cluster.view.instances)
    cluster.instances.push_back({known, instance});
  const std::string table = top::render_table(cluster);
  for (const char c : table) CHECK(c == '\n' || static_cast<unsigned char>(c) >= 0x20, "byte {}", int{c});
  (void)top::render_json(cluster);
  return 0;
}
