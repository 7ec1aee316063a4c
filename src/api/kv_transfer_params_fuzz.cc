// kv_transfer_params as they come in a body: what is read is written and read back the same.
#include <cstddef>
#include <cstdint>

#include "api/kv_transfer_params.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton::api;
  const auto value = parse_json(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!value) return 0;
  const auto params = parse_kv_transfer_params(*value);
  if (!params || !*params) return 0;
  const auto again = parse_json(render_kv_transfer_params(**params));
  CHECK(again, "what was rendered is not JSON");
  const auto back = parse_kv_transfer_params(*again);
  CHECK(back && *back, "what was rendered is not read");
  CHECK(**back == **params);
  return 0;
}
