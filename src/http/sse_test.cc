#include "http/sse.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace baton::http {
namespace {

struct Seen {
  std::vector<std::string> data;   // of events with data
  std::vector<std::string> types;  // of the same
  std::string raw;                 // of all blocks, joined
  std::string rest;

  bool operator==(const Seen&) const = default;
};

void take_events(SseParser& parser, Seen& seen) {
  while (const auto event = parser.next()) {
    seen.raw += event->raw;
    if (!event->has_data) continue;
    seen.data.emplace_back(event->data);
    seen.types.emplace_back(event->type);
  }
}

Seen read_cut_at(std::string_view stream, size_t first, size_t second) {
  SseParser parser;
  Seen seen;
  for (const std::string_view piece :
       {stream.substr(0, first), stream.substr(first, second - first), stream.substr(second)}) {
    EXPECT_TRUE(parser.feed(piece).has_value());
    take_events(parser, seen);
  }
  parser.finish();
  take_events(parser, seen);
  seen.rest = parser.rest();
  return seen;
}

struct Case {
  const char* name;
  std::string_view stream;
  std::vector<std::string> data;
  std::vector<std::string> types;
  std::string_view rest;
};

const std::vector<Case> kCases = {
    {"openai", "data: {\"a\":1}\n\ndata: [DONE]\n\n", {"{\"a\":1}", "[DONE]"}, {"", ""}, ""},
    {"crlf", "data: x\r\n\r\ndata: y\r\n\r\n", {"x", "y"}, {"", ""}, ""},
    {"cr", "data: x\r\rdata: y\r\r", {"x", "y"}, {"", ""}, ""},
    {"mixed ends", "data: x\r\n\ndata: y\n\r\ndata: z\r\n\r", {"x", "y", "z"}, {"", "", ""}, ""},
    {"byte order mark",
     "\xEF\xBB\xBF"
     "data: x\n\n",
     {"x"},
     {""},
     ""},
    {"a mark later on is part of a name",
     "data: x\n\n\xEF\xBB\xBF"
     "data: y\n\n",
     {"x"},
     {""},
     ""},
    {"several data lines", "data: a\ndata:b\ndata\ndata:  c\n\n", {"a\nb\n\n c"}, {""}, ""},
    {"comments and unknown fields", ": ping\n\nx: y\ndata: a\n\n:\n\n", {"a"}, {""}, ""},
    {"type, id, retry", "event: error\nid: 7\nretry: 10\ndata: {}\n\n", {"{}"}, {"error"}, ""},
    {"empty data is an event", "data:\n\ndata\n\n", {"", ""}, {"", ""}, ""},
    {"blank lines alone", "\n\n\r\n\ndata: x\n\n\n", {"x"}, {""}, ""},
    {"an unfinished event is not given", "data: x\n\ndata: y\n", {"x"}, {""}, "data: y\n"},
    {"a broken code point stays as it is", "data: \xE4\xBD\n\n", {"\xE4\xBD"}, {""}, ""},
    {"nothing", "", {}, {}, ""},
    {"half a mark", "\xEF\xBB", {}, {}, "\xEF\xBB"},
};

TEST(SseParser, GivesTheSameEventsHoweverTheBytesAreCut) {
  for (const Case& row : kCases) {
    for (size_t first = 0; first <= row.stream.size(); ++first) {
      for (size_t second = first; second <= row.stream.size(); ++second) {
        const Seen seen = read_cut_at(row.stream, first, second);
        ASSERT_EQ(seen.data, row.data) << row.name << " cut at " << first << " and " << second;
        ASSERT_EQ(seen.types, row.types) << row.name;
        ASSERT_EQ(seen.rest, row.rest) << row.name << " cut at " << first << " and " << second;
        ASSERT_EQ(seen.raw + seen.rest, row.stream) << row.name;
      }
    }
  }
}

TEST(SseParser, GivesAnEventAsSoonAsItsBlankLineIsThere) {
  SseParser parser;
  ASSERT_TRUE(parser.feed("data: x\r\n\r").has_value());
  EXPECT_FALSE(parser.next().has_value()) << "the LF is missing";
  ASSERT_TRUE(parser.feed("\n").has_value());
  const auto event = parser.next();
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->raw, "data: x\r\n\r\n");
}

TEST(SseParser, RefusesAnEventThatNeverEnds) {
  SseParser parser;
  const std::string piece(1024 * 1024, 'x');
  Result<void> fed;
  size_t bytes = 0;
  while (fed && bytes < 2 * kEventBytesMax) {
    fed = parser.feed(piece);
    bytes += piece.size();
    EXPECT_FALSE(parser.next().has_value());
  }
  ASSERT_FALSE(fed.has_value());
  EXPECT_EQ(fed.error().code, Code::kCorrupt);
  EXPECT_LE(parser.rest().size(), kEventBytesMax + piece.size());
}

TEST(RenderEvent, IsReadBackByTheParser) {
  for (const std::string_view data : {"", "x", "[DONE]", "two\nlines", "\n", " leading", "ends\n"}) {
    SseParser parser;
    ASSERT_TRUE(parser.feed(render_event("error", data) + render_event(data)).has_value());
    for (const std::string_view type : {"error", ""}) {
      const auto event = parser.next();
      ASSERT_TRUE(event.has_value());
      EXPECT_EQ(event->data, data);
      EXPECT_EQ(event->type, type);
    }
  }
  EXPECT_EQ(render_event("[DONE]"), kDoneEvent);
}

}  // namespace
}  // namespace baton::http
