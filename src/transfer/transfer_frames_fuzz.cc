// Bytes as they come from a peer: heads, bodies, KV heads. Whatever is accepted is written back the same.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "transfer/messages.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton;
  using namespace baton::transfer;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  if (bytes.size() < kFrameHeadBytes) return 0;
  const auto head = parse_head(bytes.first<kFrameHeadBytes>());
  if (!head) return 0;
  const std::span<const std::byte> body = bytes.subspan(kFrameHeadBytes);
  if (head->kind == FrameKind::kKvFrame) {
    if (body.size() < kKvHeadBytes) return 0;
    const auto frame = parse_kv_head(head->body_bytes, body.first<kKvHeadBytes>());
    if (frame) CHECK(std::ranges::equal(encode(*frame), bytes.first(kFrameHeadBytes + kKvHeadBytes)));
    return 0;
  }
  if (body.size() < head->body_bytes) return 0;
  const auto message = parse_body(head->kind, body.first(head->body_bytes));
  if (message) CHECK(std::ranges::equal(encode(*message), bytes.first(kFrameHeadBytes + head->body_bytes)));
  return 0;
}
