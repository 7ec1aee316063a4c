#include "options/flags.h"

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>
#include <cstdio>
#include <fstream>
#include <set>

#include "options/config_file.h"
#include "options/help.h"
#include "options/proxy_options.h"
#include "options/serve_options.h"

namespace baton::options {
namespace {

using Words = std::vector<std::string>;

Result<ServeOptions> serve(Words argv, const Environment& environment = {}) {
  argv.insert(argv.begin(), "/model");
  return parse_serve(argv, environment);
}

TEST(Arguments, NamesAreSpelledInEveryWayThatArgparseTakes) {
  for (const Words& argv :
       {Words{"--max-model-len", "40000"}, Words{"--max_model_len", "40000"}, Words{"--max-model-len=40000"},
        Words{"--max_model_len=40k"}, Words{"--max-model-l", "40k"}}) {
    const auto options = serve(argv);
    ASSERT_TRUE(options) << argv[0] << ": " << options.error().message;
    EXPECT_EQ(options->max_model_len, 40000) << argv[0];
  }
  EXPECT_EQ(serve({"-tp", "1", "-dpn", "0"})->data_parallel_rank, 0);
  EXPECT_FALSE(serve({"--no_enable_prefix_caching"})->enable_prefix_caching);
  EXPECT_FALSE(serve({"--no-enable-prefix"})->enable_prefix_caching);
}

TEST(Arguments, HumanIntegersAreThousandsOrPowersOfTwo) {
  struct Row {
    std::string_view text;
    int64_t value;
  };
  for (const Row& row : {Row{"40000", 40000}, Row{"40k", 40000}, Row{"40K", 40960}, Row{"1.5k", 1500},
                         Row{"2m", 2000000}, Row{"2M", 2 << 20}, Row{"1g", 1000000000}, Row{"1G", 1 << 30}}) {
    EXPECT_EQ(parse_human_integer(row.text), row.value) << row.text;
  }
  for (const std::string_view text : {"", "k", "1.5K", "1.5", "40kk", "-", "1e3", "9999999999999999"}) {
    EXPECT_FALSE(parse_human_integer(text)) << text;
  }
}

TEST(Arguments, DottedSpellingsBuildTheJson) {
  const auto options = serve({"--kv-transfer-config.kv_connector", "MooncakeConnector",
                              "--kv_transfer_config.kv_role=kv_consumer", "--kv-transfer-config.kv_port",
                              "30200", "--kv-transfer-config.engine_id", "2",
                              "--kv-transfer-config.kv_connector_extra_config.decode.tp_size", "1"});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->kv_transfer->role, KvRole::kConsumer);
  EXPECT_EQ(options->kv_transfer->kv_port, 30200);
  EXPECT_EQ(options->kv_transfer->engine_id, "2");
  EXPECT_EQ(options->kv_transfer->decode.tp_size, 1);

  const auto lists = parse_arguments(serve_command(),
                                     Words{"--additional-config.a.b+", "1,x", "--additional-config.a.b+=2"});
  ASSERT_TRUE(lists) << lists.error().message;
  EXPECT_EQ(json::serialize(*lists->object("--additional-config")), R"({"a":{"b":[1,"x",2]}})");
}

TEST(Arguments, DottedKeysChangeAWholeJson) {
  const auto given = parse_arguments(
      serve_command(), Words{"--additional-config", R"({"a":1,"b":2})", "--additional-config.a", "3"});
  ASSERT_TRUE(given);
  EXPECT_EQ(json::serialize(*given->object("--additional-config")), R"({"a":3,"b":2})");
  EXPECT_TRUE(given->warnings.empty());
}

TEST(Arguments, EachMistakeHasItsSentence) {
  struct Row {
    Words argv;
    std::string_view message;
  };
  const std::vector<Row> rows = {
      {{"--max-model-length", "1"}, "unknown flag --max-model-length (did you mean --max-model-len?)"},
      {{"--tensor-paralel-size", "1"},
       "unknown flag --tensor-paralel-size (did you mean --tensor-parallel-size?)"},
      {{"--xyzzy"}, "unknown flag --xyzzy (baton serve --help lists them)"},
      {{"--max-num", "1"},
       "--max-num: could be --max-num-batched-tokens, --max-num-seqs, expected one of them in full"},
      {{"--port"}, "--port: no value, expected PORT"},
      {{"--port", "--host"}, "--port: no value, expected PORT"},
      {{"--port", "70000"}, "--port: 70000, expected an integer from 0 to 65535"},
      {{"--port", "80a"}, "--port: 80a, expected an integer from 0 to 65535"},
      {{"--api-key", "k", ""}, "--api-key: empty, expected at least one character"},
      {{"--admin-key="}, "--admin-key: empty, expected at least one character"},
      {{"--served-model-name", ""}, "--served-model-name: empty, expected at least one character"},
      {{"--max-model-len", "1.5K"},
       "--max-model-len: 1.5K, expected a whole number such as 40000, 40k (40000) or 40K (40960)"},
      {{"--gpu-memory-utilization", "1.1"},
       "--gpu-memory-utilization: 1.1, expected a number from 0.01 to 1"},
      {{"--scheduling-policy", "lifo"}, "--scheduling-policy: lifo, expected one of fcfs, priority"},
      {{"--enforce-eager=maybe"}, "--enforce-eager: maybe, expected true or false"},
      {{"--kv-tls-certfile", "c.pem"},
       "--kv-tls-certfile is given without --kv-tls-keyfile, expected all of --kv-tls-certfile, "
       "--kv-tls-keyfile "
       "and --kv-tls-ca-certs, or none"},
      {{"--kv-tls-keyfile", "k.pem", "--kv-tls-certfile", "c.pem"},
       "--kv-tls-certfile is given without --kv-tls-ca-certs, expected all of --kv-tls-certfile, "
       "--kv-tls-keyfile and --kv-tls-ca-certs, or none"},
      {{"--kv-tls-certfile", "c.pem", "--kv-tls-keyfile", "k.pem", "--kv-tls-ca-certs", "a.pem",
        "--kv-transport", "ucx"},
       "--kv-tls-certfile with --kv-transport ucx: UCX does not encrypt, expected auto, local or tcp"},
      {{"--block-size", "24"}, "--block-size: 24, expected a multiple of 16"},
      {{"--max-num-batched-tokens", "262145"},
       "--max-num-batched-tokens: 262145, expected an integer from 1 to 262144"},
      {{"--max-num-batched-tokens", "4", "--max-num-seqs", "8"},
       "--max-num-batched-tokens: 4, expected at least --max-num-seqs, 8"},
      {{"--data-parallel-rank", "2", "--data-parallel-size", "2"},
       "--data-parallel-rank: 2, expected less than --data-parallel-size, 2"},
      {{"--kv-transfer-config", "{"},
       "--kv-transfer-config: {, expected a JSON object (at byte 1: incomplete JSON)"},
      {{"--kv-transfer-config", "[1]"}, "--kv-transfer-config: [1], expected a JSON object"},
      {{"--kv-transfer-config", R"({"kv_conector":"x"})"},
       "--kv-transfer-config: unknown key kv_conector (did you mean kv_connector?)"},
      {{"--kv-transfer-config", R"({"kv_role":"kv_both"})"},
       "--kv-transfer-config.kv_connector: missing, expected one of MooncakeConnector, MooncakeConnectorV1, "
       "MooncakeLayerwiseConnector, LLMDataDistCMgrConnector"},
      {{"--kv-transfer-config", R"({"kv_connector":"NixlConnector","kv_role":"kv_both"})"},
       "--kv-transfer-config.kv_connector: NixlConnector, expected one of MooncakeConnector, "
       "MooncakeConnectorV1, "
       "MooncakeLayerwiseConnector, LLMDataDistCMgrConnector"},
      {{"--kv-transfer-config", R"({"kv_connector":"MooncakeConnector","kv_role":"p"})"},
       "--kv-transfer-config.kv_role: p, expected one of kv_producer, kv_consumer, kv_both"},
      {{"--kv-transfer-config",
        R"({"kv_connector":"MooncakeConnector","kv_role":"kv_both","kv_port":"70000"})"},
       "--kv-transfer-config.kv_port: \"70000\", expected an integer from 1 to 65535"},
      {{"--kv-transfer-config",
        R"({"kv_connector":"MooncakeConnector","kv_role":"kv_both","kv_connector_module_path":"a.mooncake_layerwise_connector"})"},
       "--kv-transfer-config.kv_connector_module_path: a.mooncake_layerwise_connector, expected the module "
       "of MooncakeConnector"},
      {{"--kv-transfer-config",
        R"({"kv_connector":"MooncakeConnector","kv_role":"kv_producer","kv_connector_extra_config":{"prefill":{"tp_size":8}}})"},
       "--kv-transfer-config.kv_connector_extra_config.prefill.tp_size: 8, expected --tensor-parallel-size "
       "1"},
      {{"--speculative-config", R"({"method":"mtp"})"},
       "--speculative-config.num_speculative_tokens: missing, expected an integer from 1 to 64"},
      {{"--speculative-config", R"({"num_speculative_tokens":1,"method":"eagle"})"},
       "--speculative-config.method: eagle, expected one of mtp, deepseek_mtp, ngram"},
      {{"--compilation-config", R"({"cudagraph_mode":"SOME"})"},
       "--compilation-config.cudagraph_mode: SOME, expected one of NONE, PIECEWISE, FULL, FULL_DECODE_ONLY, "
       "FULL_AND_PIECEWISE"},
      {{"--additional-config", R"({"torchair_graph_config":{"enabled":false,"use_cached_graph":true}})"},
       "--additional-config.torchair_graph_config.use_cached_graph: true, expected enabled to be true beside "
       "it"},
      {{"--enforce-eager", "--additional-config", R"({"torchair_graph_config":{"enabled":true}})"},
       "--additional-config.torchair_graph_config.enabled: true, expected false with --enforce-eager"},
      {{"--strict-config", "--additional-config", R"({"recompute_scheduler_enabled":true})"},
       "--additional-config: unknown key recompute_scheduler_enabled (did you mean "
       "recompute_scheduler_enable?)"},
      {{"--port.x", "1"}, "--port.x: --port takes no keys"},
      {{"--additional-config.a", "1", "--additional-config.a.b", "2"},
       "--additional-config.a.b: a is 1, expected an object"},
      {{"--config", "x.txt"}, "--config: x.txt, expected a file named *.yaml or *.yml"},
      {{"--config", "/none/x.yaml"}, "--config: cannot open /none/x.yaml: No such file or directory"},
      {{"--reasoning-parser", "x"}, "--reasoning-parser: not yet supported: reasoning is not split off"},
      {{"other"}, "MODEL: other, expected one directory"},
  };
  for (const Row& row : rows) {
    const auto options = serve(row.argv);
    ASSERT_FALSE(options) << row.message;
    EXPECT_EQ(options.error().message, row.message);
  }
  EXPECT_EQ(parse_serve({}, {}).error().message, "MODEL: missing, expected a directory with a checkpoint");
}

TEST(Arguments, UnknownKeysOfAdditionalConfigAreWarnedAbout) {
  const auto options = serve({"--additional-config", R"({"recompute_scheduler_enabled":true})"});
  ASSERT_TRUE(options);
  EXPECT_EQ(options->notices, Words{"--additional-config: unknown key recompute_scheduler_enabled (did you "
                                    "mean recompute_scheduler_enable?), ignored"});
}

TEST(Arguments, TheLastOfRepeatedFlagsWinsWithAWarning) {
  const auto options = serve({"--port", "1", "--port", "2"});
  EXPECT_EQ(options->port, 2);
  EXPECT_EQ(options->notices, Words{"--port given twice, using the last"});
}

TEST(Arguments, EnvironmentIsReadWhereNoFlagSpeaks) {
  const Environment environment = {{"VLLM_CPU_KVCACHE_SPACE", "2"},
                                   {"OMP_NUM_THREADS", "3"},
                                   {"VLLM_API_KEY", "k"},
                                   {"BATON_CLUSTER_SECRET_FILE", "/s"},
                                   {"VLLM_NIXL_ABORT_REQUEST_TIMEOUT", "300000"},
                                   {"VLLM_HOST_IP", "10.0.0.1"},
                                   {"HCCL_IF_IP", "10.0.0.2"}};
  const auto options = serve({}, environment);
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->kv_cache_memory_bytes, 2UL << 30);
  EXPECT_EQ(options->threads, 3);
  EXPECT_EQ(options->api_keys, Words{"k"});
  EXPECT_EQ(options->cluster_secret_file, "/s");
  EXPECT_EQ(options->kv_lease, std::chrono::seconds(3600));
  EXPECT_EQ(options->host_ip, "10.0.0.1");
  EXPECT_TRUE(options->kv_tls_certfile.empty());
  const auto flagged = serve(
      {"--threads", "5", "--kv-cache-memory-bytes", "1G", "--kv-lease-ms", "500", "--api-key", "a", "b"},
      environment);
  EXPECT_EQ(flagged->threads, 5);
  EXPECT_EQ(flagged->kv_cache_memory_bytes, 1UL << 30);
  EXPECT_EQ(flagged->kv_lease, std::chrono::milliseconds(500));
  EXPECT_EQ(flagged->api_keys, (Words{"a", "b"}));
  EXPECT_EQ(serve({}, {{"VLLM_USE_V1", "0"}}).error().message,
            "VLLM_USE_V1: 0, expected 1: there is one engine");
}

TEST(ConfigFile, GivesValuesThatTheCommandLineOverrides) {
  const std::string path = testing::TempDir() + "baton_options_test.yaml";
  std::ofstream(path)
      << "model: /from/file\nport: 9000\nmax_model_len: 40k\nserved-model-name: [a, b]\n"
         "enable-prefix-caching: false\nseed: 7\n"
         "kv-transfer-config:\n  kv_connector: MooncakeConnector\n  kv_role: kv_both\n  engine_id: \"007\"\n";
  const auto options =
      parse_serve(Words{"--config", path, "--port", "9001", "--kv-transfer-config.kv_port", "31000"}, {});
  std::remove(path.c_str());
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->model, "/from/file");
  EXPECT_EQ(options->port, 9001);
  EXPECT_EQ(options->max_model_len, 40000);
  EXPECT_EQ(options->served_model_names, (Words{"a", "b"}));
  EXPECT_FALSE(options->enable_prefix_caching);
  EXPECT_EQ(options->kv_transfer->engine_id, "007");
  EXPECT_EQ(options->kv_transfer->kv_port, 31000);
  EXPECT_TRUE(options->notices.empty());
}

TEST(ConfigFile, RefusesWhatIsNoMapOfFlags) {
  EXPECT_EQ(parse_config("- a\n", "x.yaml").error().message, "x.yaml: expected a map from flags to values");
  EXPECT_TRUE(parse_config("a: [", "x.yaml").error().message.starts_with("x.yaml: not YAML: "));
  EXPECT_TRUE(parse_config("", "x.yaml")->empty());
  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 8; ++i) {
    const std::string last = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + last;
    for (int k = 1; k < 10; ++k) bomb += "," + last;
    bomb += "]\n";
  }
  EXPECT_FALSE(parse_config(bomb, "x.yaml"));
}

TEST(Proxy, EachMistakeHasItsSentence) {
  struct Row {
    Words argv;
    std::string_view message;
  };
  const std::vector<Row> rows = {
      {{"--api-key", ""}, "--api-key: empty, expected at least one character"},
      {{"--admin-key", ""}, "--admin-key: empty, expected at least one character"},
      {{"--prefiller-hosts", "a", "b", "--prefiller-ports", "1"},
       "--prefiller-ports: 1 values, expected as many as --prefiller-hosts, 2"},
      {{"--decoder-hosts", "a", "--decoder-ports", "1", "--decoder-hosts-num", "2"},
       "--decoder-hosts: 2 hosts and 1 ports after -num and -inc, expected as many"},
      {{"--decoder-hosts", "a", "--decoder-ports", "71157100"},
       "--decoder-ports: 71157100, expected a port from 1 to 65535 (a blank missing before a line's "
       "backslash?)"},
      {{"--decoder-hosts", "192.0.0.3192.0.0.3", "--decoder-ports", "1"},
       "--decoder-hosts: 192.0.0.3192.0.0.3: not a host, expected an IPv4 address (a blank missing before a "
       "line's backslash?)"},
      {{"--decoder-hosts", "a", "a", "--decoder-ports", "1", "1"},
       "--decoder-hosts: a:1 is given twice, expected each instance once"},
      {{"--prefiller-hosts", "a:1", "--decoder-hosts", "a:1"},
       "--decoder-hosts: a:1 is a prefill instance too, expected one or the other"},
      {{"--prefiller-hosts", "a:1", "--prefiller-ports", "2"},
       "--prefiller-hosts: values name ports, expected no --prefiller-ports"},
      {{"--prefill", "http://a:1"}, "--decode: none given, expected at least one beside --prefill"},
      {{"--prefill", "a:1", "--decode", "http://b:1"}, "--prefill: a:1: expected http://host:port"},
      {{"--prefill", "http://a:1", "x", "--decode", "http://b:1"},
       "--prefill: x, expected the port of a bootstrap server or none"},
      {{"--prefill", "http://a:1", "--prefill", "http://a:1/", "--decode", "http://b:1"},
       "--prefill: a:1 is given twice, expected each instance once"},
      {{"--prefill", "http://a:1", "--decode", "http://a:1"},
       "--decode: a:1 is a prefill instance too, expected one or the other"},
      {{"--prefill", "http://a:1", "--decode", "http://b:1", "--decoder-hosts", "c:1"},
       "--decoder-hosts: instances are named by --prefill and --decode, expected one way"},
      {{"x"}, "x: a word without a flag, expected none"},
      {{"--polcy", "x"}, "unknown flag --polcy (did you mean --policy?)"},
  };
  for (const Row& row : rows) {
    const auto options = parse_proxy(row.argv, {});
    ASSERT_FALSE(options) << row.message;
    EXPECT_EQ(options.error().message, row.message);
  }
}

TEST(Proxy, DefaultsAreTheOriginals) {
  const auto options = parse_proxy({}, {{"OPENAI_API_KEY", "sk"}});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->host, "localhost");
  EXPECT_EQ(options->port, 8000);
  EXPECT_EQ(options->prefillers, (std::vector<Endpoint>{{"localhost", 8001}}));
  EXPECT_EQ(options->decoders, (std::vector<Endpoint>{{"localhost", 8002}}));
  EXPECT_EQ(options->attempts, 3);
  EXPECT_EQ(options->backend_api_key, "sk");
  EXPECT_EQ(parse_proxy(Words{"--max-retries", "0"}, {})->attempts, 1);
}

TEST(Proxy, TakesInstancesAsUpstreamVllmsMooncakeProxyNamesThem) {
  const auto options =
      parse_proxy(Words{"--prefill", "http://a:1", "9000", "--prefill", "http://[::1]:2/", "--prefill",
                        "http://c:3", "none", "--decode", "http://d:4", "--decode", "http://e:5"},
                  {});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->prefillers, (std::vector<Endpoint>{{"a", 1}, {"::1", 2}, {"c", 3}}));
  EXPECT_EQ(options->decoders, (std::vector<Endpoint>{{"d", 4}, {"e", 5}}));
  EXPECT_EQ(options->bootstraps,
            (std::map<Endpoint, Endpoint>{{{"a", 1}, {"a", 9000}}, {{"::1", 2}, {"::1", 8998}}}));
  EXPECT_TRUE(options->notices.empty());
}

TEST(Endpoints, HaveBracketsAroundIpv6) {
  EXPECT_EQ(parse_endpoint("[::1]:80"), (Endpoint{"::1", 80}));
  EXPECT_EQ(endpoint_text({"::1", 80}), "[::1]:80");
  EXPECT_EQ(parse_endpoint("node-1.example:8001"), (Endpoint{"node-1.example", 8001}));
  for (const std::string_view text : {"", "a", ":1", "a:", "a:0", "a:99999", "::1", "a b:1", "[::1:80"}) {
    EXPECT_FALSE(parse_endpoint(text)) << text;
  }
}

TEST(Help, EveryListedFlagIsInEveryTextAndNamesAreUnique) {
  for (const Command& command : commands()) {
    const std::string help = help_text(command);
    const std::string page = man_page(command);
    std::set<std::string_view> names;
    for (const Flag& flag : command.flags) {
      EXPECT_TRUE(names.insert(flag.name).second) << flag.name;
      EXPECT_FALSE(flag.help.empty()) << flag.name;
      EXPECT_EQ(help.find(flag.name) != std::string::npos, flag.treatment != Treatment::kRejected)
          << flag.name;
      EXPECT_NE(markdown_table(command).find(flag.name), std::string::npos) << flag.name;
    }
    EXPECT_TRUE(page.starts_with(".TH BATON\\-"));
    size_t start = 0;
    while (start < help.size()) {
      const size_t end = help.find('\n', start);
      EXPECT_LE(end - start, 100U) << help.substr(start, end - start);
      start = end + 1;
    }
  }
  EXPECT_TRUE(serve({"--help", "--xyzzy"})->help);
  EXPECT_TRUE(parse_proxy(Words{"-h"}, {})->help);
}

}  // namespace
}  // namespace baton::options
