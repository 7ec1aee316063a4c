#include "options/otlp.h"

#include <gtest/gtest.h>

#include "options/proxy_options.h"
#include "options/serve_options.h"

namespace baton::options {
namespace {

TEST(OtlpEndpoint, IsAnHttpUrl) {
  const std::pair<const char*, OtlpEndpoint> cases[] = {
      {"http://collector:4318/v1/traces", {"collector", 4318, "/v1/traces"}},
      {"http://collector", {"collector", 4318, "/v1/traces"}},
      {"http://10.0.0.1:80/", {"10.0.0.1", 80, "/v1/traces"}},
      {"http://[::1]:4400/a/b?c=d", {"::1", 4400, "/a/b?c=d"}},
      {"http://[::1]", {"::1", 4318, "/v1/traces"}},
      {"http://h?x=1", {"h", 4318, "/?x=1"}},
  };
  for (const auto& [url, expected] : cases) {
    const auto parsed = parse_otlp_endpoint(url);
    ASSERT_TRUE(parsed.has_value()) << url << ": " << parsed.error().message;
    EXPECT_EQ(*parsed, expected) << url;
  }
}

TEST(OtlpEndpoint, AnythingElseIsRefusedByTheFlagsName) {
  for (const char* url : {"", "grpc://localhost:4317", "https://collector:4318", "collector:4318", "http://",
                          "http:///v1/traces", "http://u@h:1/", "http://h:1/#x", "http://h:99999/",
                          "http://h:/", "http://[::1", "http://a b:1/", "http://192.0.0.3192.0.0.3:1"}) {
    const auto parsed = parse_otlp_endpoint(url);
    ASSERT_FALSE(parsed.has_value()) << url;
    EXPECT_NE(parsed.error().message.find("--otlp-traces-endpoint: "), std::string::npos) << url;
    EXPECT_NE(parsed.error().message.find("http://HOST[:PORT][/PATH]"), std::string::npos) << url;
  }
}

TEST(OtlpEndpoint, BothCommandsTakeItAndTheNameOfTheService) {
  const std::vector<std::string> serve = {"/model", "--otlp-traces-endpoint", "http://c:1/x",
                                          "--collect-detailed-traces", "all"};
  const auto one = parse_serve(serve, {{"OTEL_SERVICE_NAME", "mine"}});
  ASSERT_TRUE(one.has_value()) << one.error().message;
  EXPECT_EQ(one->otlp_traces, (OtlpEndpoint{"c", 1, "/x"}));
  EXPECT_EQ(one->service_name, "mine");
  const std::vector<std::string> proxy = {"--otlp-traces-endpoint", "http://c"};
  const auto other = parse_proxy(proxy, {});
  ASSERT_TRUE(other.has_value()) << other.error().message;
  EXPECT_EQ(other->otlp_traces, (OtlpEndpoint{"c", 4318, "/v1/traces"}));
  EXPECT_EQ(other->service_name, "baton-proxy");
  EXPECT_FALSE(parse_proxy(std::vector<std::string>{"--otlp-traces-endpoint", "grpc://c"}, {}).has_value());
  EXPECT_FALSE(
      parse_serve(std::vector<std::string>{"/m", "--otlp-traces-endpoint", "grpc://c"}, {}).has_value());
  EXPECT_EQ(parse_serve(std::vector<std::string>{"/m"}, {})->otlp_traces, std::nullopt);
  EXPECT_EQ(parse_serve(std::vector<std::string>{"/m"}, {})->service_name, "baton-serve");
}

}  // namespace
}  // namespace baton::options
