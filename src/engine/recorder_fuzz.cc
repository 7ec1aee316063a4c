// Bytes that claim to be a flight record.
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/recorder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static_cast<void>(baton::engine::parse_record(std::as_bytes(std::span(data, size))));
  return 0;
}
