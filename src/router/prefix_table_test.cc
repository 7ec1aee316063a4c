#include "router/prefix_table.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace baton::router {
namespace {

std::vector<PrefixCut> chat(std::string_view messages, std::string_view others = "") {
  const std::string body = fmt::format(R"({{"messages":[{}]{}}})", messages, others);
  return prefix_chain(*read_client_body(Route::kChat, body));
}
std::vector<PrefixCut> text(std::string_view prompt) {
  const std::string body = fmt::format(R"({{"prompt":{}}})", prompt);
  return prefix_chain(*read_client_body(Route::kCompletions, body));
}
size_t common(const std::vector<PrefixCut>& a, const std::vector<PrefixCut>& b) {
  return static_cast<size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}
std::vector<PrefixCut> chain_of(std::initializer_list<uint64_t> hashes) {
  std::vector<PrefixCut> chain;
  for (const uint64_t hash : hashes) chain.push_back({hash, 512 * (chain.size() + 1)});
  return chain;
}
std::vector<std::pair<CacheId, uint32_t>> matches(const PrefixTable& table,
                                                  const std::vector<PrefixCut>& chain) {
  std::vector<PrefixTable::Match> found;
  table.match(chain, found);
  std::vector<std::pair<CacheId, uint32_t>> out;
  for (const auto& match : found) out.emplace_back(match.cache, match.cuts);
  return out;
}

TEST(PrefixChain, IsCutAtTheEndOfEachMessageAndEvery512BytesWithinOne) {
  const std::string large = fmt::format(R"({{"content":"{}"}})", std::string(1000, 'x'));
  const auto chain = chat(R"({"content":"a"},)" + large);
  ASSERT_EQ(chain.size(), 3U);
  EXPECT_EQ(chain[0].bytes, 15U);
  EXPECT_EQ(chain[1].bytes, 15U + 512);
  EXPECT_EQ(chain[2].bytes, 15U + large.size());
}

TEST(PrefixChain, AConversationThatGoesOnKeepsItsLinksWhateverBlanksAreBetweenItsMessages) {
  const auto first = chat(R"({"content":"a"},{"content":"b"})");
  EXPECT_EQ(common(first, chat(R"({"content":"a"}, {"content":"b"} ,{"content":"c"})")), 2U);
  EXPECT_EQ(common(first, chat(R"({"content":"a"},{"content":"B"})")), 1U);
}

TEST(PrefixChain, WhateverShapesThePromptIsPartOfEachLink) {
  const auto plain = chat(R"({"content":"a"})");
  for (const std::string_view other : {R"("cache_salt":"s")", R"("model":"s")", R"("tools":[1])",
                                       R"("chat_template":"s")", R"("chat_template_kwargs":{})"})
    EXPECT_EQ(common(plain, chat(R"({"content":"a"})", fmt::format(",{}", other))), 0U) << other;
  EXPECT_EQ(common(plain, chat(R"({"content":"a"})", R"(,"temperature":1,"max_tokens":5)")), 1U);
}

TEST(PrefixChain, APromptThatGrowsKeepsItsLinks) {
  const std::string words(1400, 'w');
  EXPECT_EQ(common(text("\"" + words + "\""), text("\"" + words + words + "\"")), 2U);
  EXPECT_EQ(text("\"" + std::string(10 << 20, 'w') + "\"").size(), kPrefixCutsMax);
  EXPECT_TRUE(text("null").size() <= 1);
}

TEST(PrefixTable, KnowsWhoWasGivenTheLongestBeginning) {
  PrefixTable table(100);
  table.record(chain_of({1, 2, 3, 4}), 7);
  table.record(chain_of({1, 2, 5}), 8);
  EXPECT_EQ(matches(table, chain_of({1, 2, 3, 4, 9})),
            (std::vector<std::pair<CacheId, uint32_t>>{{7, 4}, {8, 2}}));
  EXPECT_EQ(matches(table, chain_of({1, 2, 5, 6})),
            (std::vector<std::pair<CacheId, uint32_t>>{{8, 3}, {7, 1}}));
  EXPECT_TRUE(matches(table, chain_of({9, 1})).empty());
  EXPECT_TRUE(matches(table, {}).empty());
}

TEST(PrefixTable, AnEntryKeepsItsLastFourCaches) {
  PrefixTable table(100);
  for (const CacheId cache : {1U, 2U, 3U, 4U, 2U, 5U}) table.record(chain_of({1}), cache);
  EXPECT_EQ(matches(table, chain_of({1})),
            (std::vector<std::pair<CacheId, uint32_t>>{{5, 1}, {2, 1}, {4, 1}, {3, 1}}));
}

TEST(PrefixTable, IsBoundedAndForgetsWhatWasNotUsedForLongestLastLinksFirst) {
  PrefixTable table(6);
  table.record(chain_of({1, 2, 3}), 1);
  table.record(chain_of({11, 12, 13}), 2);
  table.record(chain_of({1, 2, 3}), 1);
  table.record(chain_of({21, 22}), 3);
  EXPECT_EQ(table.size(), 6U);
  EXPECT_EQ(matches(table, chain_of({1, 2, 3})), (std::vector<std::pair<CacheId, uint32_t>>{{1, 3}}));
  EXPECT_EQ(matches(table, chain_of({11, 12, 13})), (std::vector<std::pair<CacheId, uint32_t>>{{2, 1}}));
  EXPECT_EQ(matches(table, chain_of({21, 22})), (std::vector<std::pair<CacheId, uint32_t>>{{3, 2}}));
}

TEST(PrefixTable, AgreesWithAListThatIsSearchedWhole) {
  PrefixTable table(50);
  std::vector<std::pair<uint64_t, CacheId>> used;  // the last first
  uint64_t random = 1;
  for (int i = 0; i < 5000; ++i) {
    random = random * 6364136223846793005ULL + 1442695040888963407ULL;
    const uint64_t hash = (random >> 33) % 90 + 1;
    const auto cache = static_cast<CacheId>((random >> 20) % 5 + 1);
    table.record(chain_of({hash}), cache);
    std::erase_if(used, [&](const auto& entry) { return entry.first == hash; });
    used.insert(used.begin(), {hash, cache});
    if (used.size() > 50) used.pop_back();
    const uint64_t asked = (random >> 40) % 90 + 1;
    const auto found = matches(table, chain_of({asked}));
    const auto known = std::ranges::find(used, asked, &std::pair<uint64_t, CacheId>::first);
    ASSERT_EQ(found.empty(), known == used.end()) << i;
    if (!found.empty()) ASSERT_EQ(found.front().first, known->second) << i;
  }
}

}  // namespace
}  // namespace baton::router
