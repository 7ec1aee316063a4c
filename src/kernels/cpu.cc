#include "kernels/cpu.h"

#include <cstdlib>

#include "base/check.h"
#include "kernels/cpu/tables.h"

namespace baton::kernels {
namespace {

constexpr size_t kCacheLine = 64;

}  // namespace

struct Cpu::Buffer {
  std::byte* data = nullptr;
  size_t size = 0;
  ~Buffer() { std::free(data); }
};

Cpu::Cpu(Isa isa, unsigned threads)
    : isa_(isa), ops_(ops_of(isa)), team_(threads), buffer_(std::make_unique<Buffer>()) {
  CHECK(isa_available(isa), "{} on this processor", isa_name(isa));
}

Cpu::~Cpu() = default;

std::byte* Cpu::scratch(size_t bytes) const {
  if (bytes > buffer_->size) {
    std::free(buffer_->data);
    buffer_->size = (bytes + bytes / 2 + kCacheLine) / kCacheLine * kCacheLine;
    buffer_->data = static_cast<std::byte*>(std::aligned_alloc(kCacheLine, buffer_->size));
    CHECK(buffer_->data != nullptr, "{} bytes of scratch", buffer_->size);
  }
  return buffer_->data;
}

}  // namespace baton::kernels
