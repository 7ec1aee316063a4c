// Any bytes as a safetensors file: every tensor that comes out lies within them.
#include "checkpoint/safetensors.h"

#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span file(reinterpret_cast<const std::byte*>(data), size);
  const auto tensors = baton::checkpoint::parse_safetensors(file, "fuzz.safetensors");
  if (!tensors) return 0;
  for (const auto& tensor : *tensors) {
    CHECK(tensor.bytes.empty() || (tensor.bytes.data() >= file.data() &&
                                   tensor.bytes.data() + tensor.bytes.size() <= file.data() + file.size()));
  }
  return 0;
}
