// Answers of bootstrap servers: whatever is read can be told to D.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/json.h"
#include "base/check.h"
#include "router/rendezvous.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton;
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  static_cast<void>(router::keeps_kv(body));
  const auto ranks = router::read_bootstrap_answer(body);
  if (!ranks) return 0;
  CHECK(!ranks->empty());
  for (const auto& rank : *ranks) {
    const router::Rendezvous meeting{"xfer-id", "http://p:8998", rank};
    CHECK(api::parse_json_object(meeting.decode_params()), "D's parameters are no JSON");
  }
  return 0;
}
