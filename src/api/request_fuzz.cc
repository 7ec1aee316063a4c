// Bodies of HTTP requests; the first byte says which route reads them.
#include <cstddef>
#include <cstdint>

#include "api/identity.h"
#include "api/json.h"
#include "api/request.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton::api;
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  const RequestLimits limits{.vocab_size = 1000, .trust_chat_template = true};
  switch (data[0] % 6) {
    case 0:
      (void)parse_completion_request(body, limits);
      break;
    case 1: {
      auto request = parse_chat_request(body, limits);
      if (request) normalise_messages(request->messages);
      break;
    }
    case 2:
      (void)parse_tokenize_request(body, limits);
      break;
    case 3:
      (void)parse_detokenize_request(body, limits);
      break;
    case 4:
      (void)parse_models_identity(body);
      break;
    default: {
      // What is read as members is what a parser of the whole document sees.
      auto bytes = ObjectBytes::parse(body);
      const auto whole = parse_json_object(body);
      if (whole) CHECK(bytes, "members refused, document taken");
      if (!whole || !bytes) break;
      CHECK(parse_json_object(bytes->str()) == whole);
      bytes->remove("a");
      CHECK(!bytes->find("a"));
      break;
    }
  }
  return 0;
}
