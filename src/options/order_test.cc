// What the layer-wise order asks of the command lines.
#include <gtest/gtest.h>

#include "options/proxy_options.h"
#include "options/serve_options.h"

namespace baton::options {
namespace {

Result<ProxyOptions> proxy(std::vector<std::string> argv) { return parse_proxy(argv, {}); }

TEST(ProxyOrder, IsAutoUnlessGiven) {
  EXPECT_EQ(proxy({})->order, ProxyOrder::kAuto);
  EXPECT_EQ(proxy({"--order", "auto"})->order, ProxyOrder::kAuto);
  EXPECT_EQ(proxy({"--order", "pull"})->order, ProxyOrder::kPull);
  EXPECT_EQ(proxy({"--order", "layerwise"})->order, ProxyOrder::kLayerwise);
  const auto wrong = proxy({"--order", "push"});
  ASSERT_FALSE(wrong);
  for (const char* word : {"--order", "push", "layerwise"}) {
    EXPECT_NE(wrong.error().message.find(word), std::string::npos) << wrong.error().message;
  }
}

TEST(ProxyLocalPrefill, IsAutoUnlessGiven) {
  EXPECT_EQ(proxy({})->local_prefill, ProxyLocalPrefill::kAuto);
  EXPECT_EQ(proxy({"--local-prefill", "auto"})->local_prefill, ProxyLocalPrefill::kAuto);
  EXPECT_EQ(proxy({"--local-prefill", "never"})->local_prefill, ProxyLocalPrefill::kNever);
  EXPECT_EQ(proxy({"--local-prefill", "always"})->local_prefill, ProxyLocalPrefill::kAlways);
  EXPECT_EQ(proxy({"--local-prefill", "maybe"}).error().message,
            "--local-prefill: maybe, expected one of auto, never, always");
}

TEST(ProxyOrder, AnAdvertisedHostCanBeDialled) {
  for (const char* host : {"10.0.0.1", "fd00::1", "proxy.example"}) {
    const auto options = proxy({"--host", "0.0.0.0", "--advertise-host", host});
    ASSERT_TRUE(options) << options.error().message;
    EXPECT_EQ(options->advertise_host, host);
  }
  for (const char* host : {"0.0.0.0", "::", "0:0:0:0:0:0:0:0", "192.0.0.3192.0.0.3", "a b"}) {
    EXPECT_FALSE(proxy({"--advertise-host", host})) << host;
  }
}

TEST(LayerwiseConnector, IsServedWithTheModuleThatTheTutorialNames) {
  const auto options = parse_serve(
      std::vector<std::string>{
          "m", "--kv-transfer-config",
          R"({"kv_connector":"MooncakeLayerwiseConnector","kv_role":"kv_consumer","kv_port":"30200","engine_id":"2",)"
          R"("kv_connector_module_path":"vllm_ascend.distributed.mooncake_layerwise_connector"})"},
      {});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->kv_transfer->connector, Connector::kLayerwise);
  EXPECT_TRUE(check_supported(*options));
}

}  // namespace
}  // namespace baton::options
