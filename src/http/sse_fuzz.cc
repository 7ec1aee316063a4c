// Any bytes, cut anywhere: no event is lost or made up, and the raws joined are the stream.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "http/sse.h"

namespace {

using baton::http::SseParser;

struct Seen {
  std::vector<std::string> data;
  std::string raw;
};

Seen read_pieces(std::string_view stream, size_t piece_bytes) {
  SseParser parser;
  Seen seen;
  const auto take = [&] {
    while (const auto event = parser.next()) {
      seen.raw += event->raw;
      if (event->has_data) seen.data.emplace_back(event->data);
    }
  };
  for (size_t at = 0; at < stream.size(); at += piece_bytes) {
    if (!parser.feed(stream.substr(at, piece_bytes))) break;
    take();
  }
  parser.finish();
  take();
  seen.raw += parser.rest();
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size < 1) return 0;
  const size_t piece_bytes = 1 + bytes[0] % 16;
  const std::string_view stream(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  const Seen whole = read_pieces(stream, stream.size() + 1);
  const Seen cut = read_pieces(stream, piece_bytes);
  CHECK(whole.raw == stream);
  CHECK(cut.raw == stream);
  CHECK(whole.data == cut.data);
  return 0;
}
