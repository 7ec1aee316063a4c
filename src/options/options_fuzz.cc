// Command lines: words parted by newlines; the first byte says what reads them.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "options/config_file.h"
#include "options/proxy_options.h"
#include "options/serve_options.h"
#include "options/spelling.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton::options;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 3 == 2) {
    (void)parse_config(text, "fuzz.yaml");
    return 0;
  }
  std::vector<std::string> words;
  split(text, '\n', [&](std::string_view word) {
    if (!word.starts_with("--config")) words.emplace_back(word);
  });
  if (data[0] % 3 == 0) {
    const auto options = parse_serve(words, {});
    if (options) (void)check_supported(*options);
  } else {
    (void)parse_proxy(words, {});
  }
  return 0;
}
