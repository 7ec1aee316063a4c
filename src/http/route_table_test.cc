#include "http/route_table.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace baton::http {
namespace {

struct Entry {
  std::string_view method;
  std::string_view path;
  Access access;
};
constexpr std::array kEntries = {Entry{"GET", "/ping", Access::kOpen}, Entry{"POST", "/ping", Access::kOpen},
                                 Entry{"POST", "/ask", Access::kClient},
                                 Entry{"GET", "/admin", Access::kAdmin}};

Request request_of(std::string_view method, std::string_view target, std::string_view authorization,
                   std::string_view peer) {
  Request request;
  request.method = method;
  request.target = target;
  if (!authorization.empty()) request.headers.add("Authorization", authorization);
  request.peer = *net::literal_endpoint(peer, 1);
  return request;
}

TEST(RouteTable, SaysWhichEntryARequestTakesOrWhyNone) {
  const std::vector<std::string> keys = {"k1", "k2"};
  struct Case {
    Keys keys;
    std::string_view method, target, authorization, peer;
    int status;             // 200: an entry
    std::string_view rest;  // the entry's method, else what stands in Allow
  };
  const Keys none, api{keys, ""}, all{keys, "boss"};
  const std::string_view here = "127.0.0.1", far = "10.0.0.1";
  const std::vector<Case> cases = {
      {none, "GET", "/ping?a=1", "", far, 200, "GET"},
      {none, "HEAD", "/ping", "", far, 200, "GET"},
      {none, "POST", "/ping", "", far, 200, "POST"},
      {none, "PUT", "/ping", "", far, 405, "GET, HEAD, POST"},
      {none, "HEAD", "/ask", "", far, 405, "POST"},
      {none, "get", "/ping", "", far, 405, "GET, HEAD, POST"},
      {none, "GET", "/nowhere", "", far, 404, ""},
      {none, "GET", "/ping/", "", far, 404, ""},
      {none, "POST", "/ask", "", far, 200, "POST"},
      {api, "POST", "/ask", "", far, 401, ""},
      {api, "POST", "/ask", "Bearer k2", far, 200, "POST"},
      {api, "POST", "/ask", "bearer k1", far, 200, "POST"},
      {api, "POST", "/ask", "Bearer k", far, 401, ""},
      {api, "POST", "/ask", "Bearer k11", far, 401, ""},
      {api, "POST", "/ask", "Bearer ", far, 401, ""},
      {api, "POST", "/ask", "Basic k1", far, 401, ""},
      {api, "POST", "/ask", "k1", far, 401, ""},
      {api, "POST", "/ping", "", far, 200, "POST"},
      {all, "POST", "/ask", "Bearer boss", far, 401, ""},
      {none, "GET", "/admin", "", here, 200, "GET"},
      {none, "GET", "/admin", "", far, 401, ""},
      {all, "GET", "/admin", "", here, 401, ""},
      {all, "GET", "/admin", "Bearer k1", here, 401, ""},
      {all, "GET", "/admin", "Bearer boss", far, 200, "GET"},
  };
  for (const Case& one : cases) {
    const Request request = request_of(one.method, one.target, one.authorization, one.peer);
    const auto found = find_route(kEntries, request, one.keys);
    const auto* refusal = std::get_if<Refusal>(&found);
    const std::string name =
        std::string(one.method) + " " + std::string(one.target) + " " + std::string(one.authorization);
    EXPECT_EQ(refusal == nullptr ? 200 : refusal->status, one.status) << name;
    EXPECT_EQ(refusal == nullptr ? std::get<const Entry*>(found)->method : std::string_view(refusal->allow),
              one.rest)
        << name;
  }
}

TEST(RouteTable, ABodyInACodingIsNotReadAndSaysWhich) {
  for (const auto& [coding, is_read] : {std::pair{"gzip", false}, {"identity", true}, {"br, gzip", false}}) {
    Request request = request_of("POST", "/ask", "", "10.0.0.1");
    request.headers.add("Content-Encoding", coding);
    const auto found = find_route(kEntries, request, {});
    const auto* refusal = std::get_if<Refusal>(&found);
    ASSERT_EQ(refusal == nullptr, is_read) << coding;
    if (is_read) continue;
    EXPECT_EQ(refusal->status, 415);
    EXPECT_EQ(refusal->message, "Content-Encoding: " + std::string(coding) + ", expected none or identity");
  }
}

}  // namespace
}  // namespace baton::http
