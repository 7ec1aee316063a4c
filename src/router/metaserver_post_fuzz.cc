// Posts to the metaserver: what is read goes to P as it came, around what the proxy adds for a Baton
// instance.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/json.h"
#include "base/check.h"
#include "router/layerwise_bodies.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace baton;
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const auto post = router::read_metaserver_post(body);
  if (!post) return 0;
  const auto client =
      router::read_client_body(router::Route::kCompletions, R"({"prompt":"x","max_tokens":5})");
  CHECK(router::landing_body(*client, post->text, false, 7).find(body) != std::string::npos);
  CHECK(api::parse_json_object(router::landing_body(*client, post->text, true, 7)),
        "the request to P is no JSON");
  return 0;
}
