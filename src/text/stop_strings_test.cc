#include "text/stop_strings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>

#include "text/utf8.h"

namespace baton::text {
namespace {

struct Outcome {
  std::string text;
  std::optional<std::string> stop;
  bool operator==(const Outcome&) const = default;
};

// The definition, by brute force: the answer ends at the first byte where a stop string completes.
Outcome reference(std::string_view text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string* best = nullptr;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop) && (!best || stop.size() > best->size())) best = &stop;
    }
    if (best) return {std::string(text.substr(0, include ? end : end - best->size())), *best};
  }
  return {std::string(text), std::nullopt};
}

// Bytes at the end of `text` with which a stop string may have begun.
size_t begun(std::string_view text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    for (size_t n = 1; n < stop.size(); ++n) {
      if (text.ends_with(std::string_view(stop).substr(0, n))) longest = std::max(longest, n);
    }
  }
  return longest;
}

Outcome streamed(const std::vector<std::string_view>& parts, const std::vector<std::string>& stops,
                 bool include) {
  StopStrings search = StopStrings::create(stops, include).value();
  Outcome outcome;
  std::string fed;
  for (const std::string_view part : parts) {
    outcome.text += search.feed(part);
    fed += part;
    if (search.stopped()) break;
    const size_t held = std::max(begun(fed, stops), utf8_unfinished_bytes(fed));
    EXPECT_EQ(outcome.text, fed.substr(0, fed.size() - held)) << "of '" << fed << "'";
  }
  outcome.text += search.flush();
  if (search.stopped()) outcome.stop = search.stop_string();
  return outcome;
}

TEST(StopStrings, EndTheAnswerWhereTheFirstOneCompletes) {
  const struct {
    std::string text;
    std::vector<std::string> stops;
    bool include;
    Outcome expected;
  } rows[] = {
      {"hello world", {}, false, {"hello world", std::nullopt}},
      {"hello world", {"wor"}, false, {"hello ", "wor"}},
      {"hello world", {"wor"}, true, {"hello wor", "wor"}},
      {"hello wo", {"wor"}, false, {"hello wo", std::nullopt}},
      {"abcd", {"abcd", "bc"}, false, {"a", "bc"}},
      {"xabc", {"c", "abc", "bc"}, false, {"x", "abc"}},
      {"aaab", {"aab"}, false, {"a", "aab"}},
      {"caf\xC3\xA9!", {"\xC3\xA9"}, false, {"caf", "\xC3\xA9"}},
      {"\n\nUser:", {"\n\nUser:"}, false, {"", "\n\nUser:"}},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(streamed({row.text}, row.stops, row.include), row.expected) << row.text;
    EXPECT_EQ(reference(row.text, row.stops, row.include), row.expected) << row.text;
  }
}

TEST(StopStrings, GiveTheSameAnswerHoweverTheTextIsCut) {
  const std::vector<std::string> alphabet = {"a", "b", "\xC3\xA9", "\xF0\x9F\x98\x80", "\xC3\xA8"};
  std::mt19937 random(7);
  const auto below = [&](size_t n) { return static_cast<size_t>(random()) % n; };
  const auto word = [&](size_t characters) {
    std::string text;
    for (size_t i = 0; i < characters; ++i) text += alphabet[below(alphabet.size() - below(4))];
    return text;
  };
  for (int round = 0; round < 400; ++round) {
    const std::string text = word(below(14));
    std::vector<std::string> stops;
    for (size_t i = below(4); i > 0; --i) stops.push_back(word(1 + below(5)));
    for (const bool include : {false, true}) {
      const Outcome expected = reference(text, stops, include);
      for (size_t first = 0; first <= text.size(); ++first) {
        for (size_t second = first; second <= text.size(); ++second) {
          const std::string_view view = text;
          ASSERT_EQ(streamed({view.substr(0, first), view.substr(first, second - first), view.substr(second)},
                             stops, include),
                    expected)
              << "'" << text << "' cut at " << first << ", " << second;
        }
      }
    }
  }
}

TEST(StopStrings, WaitForTheMinimumNumberOfTokens) {
  StopStrings search = StopStrings::create({"stop"}, false).value();
  EXPECT_EQ(search.feed("a stop b", false), "a stop b");
  EXPECT_EQ(search.feed(" st", false), " ");
  EXPECT_EQ(search.feed("op"), "");  // begins before the minimum, completes after it
  EXPECT_TRUE(search.stopped());
  EXPECT_EQ(search.feed("more"), "");
  EXPECT_EQ(search.flush(), "");
}

TEST(StopStrings, RefuseWhatCannotBeSearchedFor) {
  const struct {
    std::vector<std::string> stops;
    std::string message;
  } rows[] = {
      {{"a", ""}, "stop[1]: expected a non-empty string"},
      {{"\xFF"}, "stop[0]: expected UTF-8"},
      {{std::string(1025, 'a')}, "stop[0]: 1025 bytes, expected at most 1024"},
      {std::vector<std::string>(65, "a"), "stop: 65 strings, expected at most 64"},
  };
  for (const auto& row : rows) {
    const auto search = StopStrings::create(row.stops, false);
    ASSERT_FALSE(search.has_value()) << row.message;
    EXPECT_EQ(search.error(), (Error{Code::kInvalid, row.message, "stop"}));
  }
}

}  // namespace
}  // namespace baton::text
