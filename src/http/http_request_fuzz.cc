// Any bytes as requests and as responses, whole and cut: the same messages or the same refusal, no CHECK and
// no bound of the parser passed.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "http/parser.h"

namespace {

using namespace baton::http;

constexpr ParserLimits kLimits{.head_bytes_max = 512, .headers_max = 8, .body_bytes_max = 256};

// The whole requests before the end or the first refusal, as text to compare.
std::string read_requests(std::string_view bytes, size_t piece_bytes) {
  RequestParser parser(kLimits);
  std::string seen;
  std::string held;
  for (size_t at = 0; at < bytes.size(); at += piece_bytes) {
    held += bytes.substr(at, piece_bytes);
    while (true) {
      const auto consumed = parser.feed(held);
      if (!consumed) return seen;
      CHECK(*consumed <= held.size());
      held.erase(0, *consumed);
      if (!parser.done()) break;
      const Request& request = parser.request();
      CHECK(request.body.size() <= kLimits.body_bytes_max);
      CHECK(request.headers.size() <= kLimits.headers_max);
      CHECK(request.target.starts_with('/') || request.target == "*");
      seen += request.method + " " + request.target;
      for (const Header field : request.headers) {
        CHECK(is_field_value(field.value));
        seen += "|" + std::string(field.name) + ":" + std::string(field.value);
      }
      seen += "|" + request.body + "\n";
      parser.reset();
      if (held.empty()) break;
    }
  }
  return seen;
}

std::string read_response(std::string_view bytes, size_t piece_bytes, bool answers_head) {
  ResponseParser parser(kLimits);
  parser.reset(answers_head);
  std::string body;
  std::string held;
  for (size_t at = 0; at < bytes.size() && !parser.done(); at += piece_bytes) {
    held += bytes.substr(at, piece_bytes);
    const auto consumed = parser.feed(held, body);
    // Bad bytes in an unfinished head may be seen only at its end, as a message that is not whole.
    if (!consumed) return "failed";
    CHECK(*consumed <= held.size());
    held.erase(0, *consumed);
  }
  if (!parser.finish()) return "failed";
  std::string seen = std::to_string(parser.status()) + (parser.keep_alive() ? " kept" : " closed");
  for (const Header field : parser.headers()) {
    seen += "|" + std::string(field.name) + ":" + std::string(field.value);
  }
  return seen + "|" + body;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size < 1) return 0;
  const size_t piece_bytes = 1 + bytes[0] % 64;
  const bool answers_head = (bytes[0] & 0x80) != 0;
  const std::string_view stream(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  const std::string whole = read_requests(stream, stream.size() + 1);
  const std::string cut = read_requests(stream, piece_bytes);
  CHECK(whole == cut, "\n{}\n{}", whole, cut);
  CHECK(read_response(stream, stream.size() + 1, answers_head) ==
        read_response(stream, piece_bytes, answers_head));
  return 0;
}
