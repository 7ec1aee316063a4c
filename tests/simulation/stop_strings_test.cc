// A stop string that begins in the token that P drew and ends in those that D draws cuts an answer where one
// instance cuts it: where it first stands in what would be said without it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include <boost/json/serialize.hpp>

#include "api/json.h"
#include "model/testing.h"
#include "tests/simulation/cluster.h"

namespace baton::simulation {
namespace {

const std::string kTokenizer = std::string(BATON_SOURCE_DIR) + "/tests/golden/checkpoints/qwen3";
constexpr Time kStart{std::chrono::seconds(1)};

// All tokens of the golden tokenizer: words, parts of words, and bytes that are parts of characters.
std::unique_ptr<model::LanguageModel> fake_model(uint32_t block_tokens) {
  model::FakeModelOptions options{.vocab_size = 1024, .max_position = 256};
  options.layout.block_tokens = block_tokens;
  return std::make_unique<model::FakeModel>(options);
}

std::string as_json(std::string_view text) {
  return api::json::serialize(api::json::value(api::json::string_view(text.data(), text.size())));
}

// Byte positions where characters begin, and the end.
std::vector<size_t> character_bounds(std::string_view text) {
  std::vector<size_t> bounds;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) bounds.push_back(i);
  }
  bounds.push_back(text.size());
  return bounds;
}

struct Asked {
  std::string body;
  std::string stop;
  bool includes = false;
  const Outcome* free = nullptr;  // what would be said without the stop string
};

class StopStrings : public testing::Test {
 protected:
  StopStrings() {
    for (const char* name : {"P1", "P2", "D1", "D2"}) {
      cluster_.add(
          {.name = name, .role = name[0] == 'P' ? api::Role::kPrefill : api::Role::kDecode, .engine = {}});
    }
    alone_.add({.name = "alone", .role = std::nullopt, .arena_blocks = 512, .engine = {}});
  }

  Outcome answer(const std::string& body) { return answer_alone(alone_.instance(0), body, now_); }

  // Every stop string of up to `characters_max` characters that begins within the first three characters of
  // what the first choice would say.
  void ask_every_way(const std::string& fields, const Outcome& free, size_t characters_max) {
    const std::string& text = free.said.front().text;
    const std::vector<size_t> bounds = character_bounds(text);
    for (size_t from = 0; from < 3; ++from) {
      for (size_t to = from + 1; to <= from + characters_max && to < bounds.size(); ++to) {
        const std::string stop = text.substr(bounds[from], bounds[to] - bounds[from]);
        for (const bool includes : {false, true}) {
          for (const bool streams : {false, true}) {
            asked_.push_back({fmt::format(R"({{{},"stop":{},"include_stop_str_in_output":{},"stream":{}}})",
                                          fields, as_json(stop), includes, streams),
                              stop, includes, &free});
            cluster_.send(asked_.back().body, kStart + std::chrono::milliseconds(asked_.size()));
          }
        }
      }
    }
  }

  Cluster cluster_{fake_model, kTokenizer, {.seed = 1, .delay_max = std::chrono::milliseconds(3)}};
  Cluster alone_{fake_model, kTokenizer, {.seed = 1}};
  Time now_ = kStart;
  std::vector<Asked> asked_;
};

TEST_F(StopStrings, ThatLieAcrossPsTokenAndDsCutTheAnswerWhereOneInstanceDoes) {
  std::vector<std::unique_ptr<Outcome>> free;
  for (int i = 0; i < 12; ++i) {
    const std::string fields = fmt::format(
        R"("prompt":[{},2,3,{}],"seed":{},"n":2,"max_tokens":6,"ignore_eos":true)", i + 1, 7 * i, i);
    free.push_back(std::make_unique<Outcome>(answer("{" + fields + "}")));
    ask_every_way(fields, *free.back(), 5);
  }
  cluster_.run();
  size_t across = 0;
  for (size_t i = 0; i < asked_.size(); ++i) {
    const Asked& asked = asked_[i];
    const Outcome& got = cluster_.outcomes()[i];
    ASSERT_FALSE(got.error) << asked.body << got.error->message;
    EXPECT_TRUE(answer(asked.body).same_answer(got)) << asked.body;
    for (size_t choice = 0; choice < 2; ++choice) {
      const Said& whole = asked.free->said[choice];
      const size_t at = whole.text.find(asked.stop);
      if (at == std::string::npos) {
        EXPECT_EQ(got.said[choice], whole) << asked.body;
        continue;
      }
      EXPECT_EQ(got.said[choice].text, whole.text.substr(0, at + (asked.includes ? asked.stop.size() : 0)))
          << asked.body;
      EXPECT_EQ(got.said[choice].end, "\"stop\" " + as_json(asked.stop)) << asked.body;
      across += got.choices[choice].size() > 1 ? 1 : 0;
    }
  }
  EXPECT_GT(across, 200U) << "of " << asked_.size();
  for (size_t i = 0; i < cluster_.size(); ++i) {
    const auto& stats = cluster_.instance(i).engine().stats();
    EXPECT_EQ(stats.blocks_free, stats.blocks_total) << "instance " << i;
    EXPECT_EQ(stats.handovers_failed, 0U);
  }
  EXPECT_GT(cluster_.instance(2).engine().stats().handovers_landed, 100U);
}

}  // namespace
}  // namespace baton::simulation
