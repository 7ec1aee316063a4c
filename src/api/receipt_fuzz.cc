// What somebody calls a receipt: read or refused, and what was read is written so that it reads the same.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/receipt.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton;
  const auto receipt = api::parse_receipt({reinterpret_cast<const char*>(data), size});
  if (!receipt) return 0;
  const auto again = api::parse_receipt(api::render_receipt(*receipt));
  CHECK(again == receipt, "{}", api::render_receipt(*receipt));
  return 0;
}
