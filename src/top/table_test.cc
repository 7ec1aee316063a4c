#include "top/table.h"

#include <gtest/gtest.h>

namespace baton::top {
namespace {

Cluster example() {
  return {.proxy = "127.0.0.1:8000",
          .view = {.requests = {{.id = "young",
                                 .client_id = "",
                                 .age_ms = 12,
                                 .phase = "route",
                                 .waits_for = "an instance with room",
                                 .since_ms = 12,
                                 .until_ms = 29'988},
                                {.id = "old",
                                 .client_id = "mine",
                                 .age_ms = 61'500,
                                 .phase = "stream",
                                 .waits_for = "events of d:2",
                                 .since_ms = 1'500}},
                   .instances = {{.address = "p:1", .role = "prefill", .health = "up", .is_baton = true},
                                 {.address = "d:2", .role = "decode", .health = "up", .is_baton = true},
                                 {.address = "d:3",
                                  .role = "decode",
                                  .health = "down",
                                  .reason = "it hangs",
                                  .is_baton = true},
                                 {.address = "d:4", .role = "decode", .health = "up", .is_baton = false}}},
          .instances = {}};
}

// The example with what its instances answer: `at_p` and `at_d` of the first two, nothing of the third.
Cluster asked(std::vector<InstanceRequest> at_p, std::vector<InstanceRequest> at_d) {
  Cluster cluster = example();
  const auto& known = cluster.view.instances;
  cluster.instances.push_back({known[0], std::move(at_p)});
  cluster.instances.push_back({known[1], std::move(at_d)});
  cluster.instances.push_back({known[2], fail(Code::kTimeout, "no answer within 2 s")});
  cluster.instances.push_back({known[3], std::vector<InstanceRequest>()});
  return cluster;
}

const InstanceRequest kDecodes{.id = "old",
                               .state = "decode",
                               .waits_for = "",
                               .since_ms = 700,
                               .until_ms = {},
                               .prompt_tokens = 40,
                               .computed_tokens = 52,
                               .output_tokens = 12};
const InstanceRequest kOfAnother{.id = "foreign",
                                 .state = "prefill",
                                 .waits_for = "KV blocks",
                                 .since_ms = 5,
                                 .until_ms = 100,
                                 .prompt_tokens = 40,
                                 .computed_tokens = 16,
                                 .output_tokens = 0};

TEST(Table, ARequestIsWhereAnInstanceHoldsItElseAtTheProxy) {
  const auto rows = rows_of(asked({kOfAnother}, {kDecodes}));
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].id, "old");  // the oldest first
  EXPECT_EQ(rows[0].where, "D d:2");
  EXPECT_EQ(rows[0].phase, "decode");
  EXPECT_EQ(rows[0].waits_for, "");
  EXPECT_EQ(rows[0].age_ms, 61'500);
  EXPECT_EQ(rows[0].client_id, "mine");
  EXPECT_EQ(rows[1].id, "young");
  EXPECT_EQ(rows[1].where, "proxy");
  EXPECT_EQ(rows[1].waits_for, "an instance with room");
  EXPECT_FALSE(rows[1].prompt_tokens);
  EXPECT_EQ(rows[2].id, "foreign");  // of another proxy, or of none
  EXPECT_EQ(rows[2].where, "P p:1");
  EXPECT_FALSE(rows[2].age_ms);
}

TEST(Table, ARequestThatTwoInstancesHoldHasTwoRows) {
  const InstanceRequest fills{.id = "old", .state = "prefill", .waits_for = "", .prompt_tokens = 40};
  const auto rows = rows_of(asked({fills}, {kDecodes}));
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].where, "P p:1");
  EXPECT_EQ(rows[1].where, "D d:2");
  EXPECT_EQ(rows[1].age_ms, rows[0].age_ms);
}

TEST(Table, IsReadableAndNamesWhoDoesNotAnswer) {
  EXPECT_EQ(render_table(asked({kOfAnother}, {kDecodes})),
            "127.0.0.1:8000: 2 request(s), 4 instance(s)\n"
            "REQUEST     AGE     PHASE    WHERE  WAITS FOR              SINCE   UNTIL   TOKENS\n"
            "old (mine)  61.5 s  decode   D d:2  -                      700 ms  -       40+12\n"
            "young       12 ms   route    proxy  an instance with room  12 ms   30.0 s  -\n"
            "foreign     -       prefill  P p:1  KV blocks              5 ms    100 ms  16/40\n"
            "D d:3: no answer within 2 s\n"
            "D d:4: no Baton instance, what it does is not known\n");
}

TEST(Table, AsJsonIsOneLineOfTheSame) {
  EXPECT_EQ(render_json(asked({}, {kDecodes})).substr(0, 234),
            R"({"proxy":"127.0.0.1:8000","requests":[{"request_id":"old","client_id":"mine","age_ms":6.15E4,)"
            R"("phase":"decode","where":"D d:2","waits_for":null,"since_ms":7E2,"until_ms":null,)"
            R"("prompt_tokens":40,"computed_tokens":52,"output_tokens":12},)");
  EXPECT_NE(render_json(asked({}, {})).find(R"("errors":["D d:3: no answer within 2 s",)"),
            std::string::npos);
}

TEST(Views, ReadWhatIsThereAndRefuseWhatIsNone) {
  const auto proxy = parse_proxy_view(
      R"({"requests":[{"request_id":"a","age_ms":1.5,"until_ms":null,"phase":7},3],)"
      R"("instances":[{"address":"h:1","role":"decode","health":"up","baton":true},{}],"more":{}})");
  ASSERT_TRUE(proxy) << proxy.error().message;
  ASSERT_EQ(proxy->requests.size(), 1U);
  EXPECT_EQ(proxy->requests[0].id, "a");
  EXPECT_EQ(proxy->requests[0].age_ms, 1.5);
  EXPECT_EQ(proxy->requests[0].phase, "");
  EXPECT_FALSE(proxy->requests[0].until_ms);
  ASSERT_EQ(proxy->instances.size(), 2U);
  EXPECT_TRUE(proxy->instances[0].is_baton);
  for (const std::string text : {"", "[]", "{}", R"({"requests":{}})", R"({"requests":[]})"})
    EXPECT_EQ(parse_proxy_view(text).error().code, Code::kCorrupt) << text;
  EXPECT_EQ(parse_instance_view("{}").error().message, "requests: expected a list");
  std::string many = R"({"requests":[0)";
  for (size_t i = 0; i < kViewRowsMax; ++i) many += ",0";
  EXPECT_FALSE(parse_instance_view(many + "]}").has_value());
}

TEST(Views, ATextCannotCommandATerminal) {
  EXPECT_EQ(shown_text("a\x1b[2Jb\r\n\x7f\xc2\x9b"), "a?[2Jb????");
  EXPECT_EQ(shown_text("h\xc3\xa9 \xe2\x82\xac \xff\xc3"), "h\xc3\xa9 \xe2\x82\xac ??");
  EXPECT_EQ(shown_text(std::string(2 * kTextBytesMax, 'x')).size(), kTextBytesMax);
  const auto view =
      parse_instance_view(R"({"requests":[{"request_id":"\u001b]0;x\u0007","waits_for":"\u009b"}]})");
  ASSERT_TRUE(view);
  EXPECT_EQ(view->front().id, "?]0;x?");
  EXPECT_EQ(view->front().waits_for, "?");
}

}  // namespace
}  // namespace baton::top
