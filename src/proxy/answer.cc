#include "proxy/answer.h"

namespace baton::proxy {

http::Headers answer_headers(const http::Request& request, std::string_view id,
                             std::string_view content_type) {
  http::Headers headers;
  headers.add("Content-Type", content_type);
  const auto asked = request.headers.get("X-Request-Id");
  headers.add("X-Request-Id", asked && http::is_field_value(*asked) ? *asked : id);
  return headers;
}

void send(http::ResponseWriter& writer, http::Headers headers, const router::Reply& reply) {
  http::Response response;
  response.status = reply.status;
  response.headers = std::move(headers);
  if (!reply.retry_after.empty()) response.headers.add("Retry-After", reply.retry_after);
  response.body = reply.body;
  writer.send(response);
}

}  // namespace baton::proxy
