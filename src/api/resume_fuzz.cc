// A note's line and a `baton_resume`: read or refused, and what was read is written so that it reads the
// same. Lines of one input are the notes of one answer.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/resume.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton;
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  if (const auto whole = api::parse_resumption(text, INT32_MAX)) {
    const auto again = api::parse_resumption(api::render_resumption(*whole), INT32_MAX);
    CHECK(again == whole, "{}", api::render_resumption(*whole));
  }
  std::optional<api::Resumption> sum;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    const auto note = api::parse_resume_note(text.substr(begin, end - begin));
    if (note) {
      std::string line;
      api::append_resume_note(line, *note);
      const auto again = api::parse_resume_note(std::string_view(line).substr(0, line.size() - 1));
      CHECK(again == note, "{}", line);
      if (!api::add_note(sum, *note)) break;
    }
    if (end == std::string_view::npos) break;
    begin = end + 1;
  }
  if (sum) CHECK(api::parse_resumption(api::render_resumption(*sum), INT32_MAX) == *sum, "the sum");
  return 0;
}
