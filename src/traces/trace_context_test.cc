#include "traces/trace_context.h"

#include <gtest/gtest.h>

namespace baton::traces {
namespace {

constexpr const char* kGood = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

http::Headers headers(std::initializer_list<std::pair<const char*, std::string>> fields) {
  http::Headers out;
  for (const auto& [name, value] : fields) out.add(name, value);
  return out;
}

TEST(Traceparent, IsReadAndWrittenAsItIs) {
  const auto context = parse_traceparent(kGood);
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace.hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(context->span, 0x00f067aa0ba902b7U);
  EXPECT_TRUE(context->is_sampled());
  EXPECT_EQ(traceparent_text(*context), kGood);
  EXPECT_FALSE(parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02")->is_sampled());
}

TEST(Traceparent, OfALaterVersionIsReadAsFarAsItIsKnown) {
  for (const char* value : {"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-comes"}) {
    const auto context = parse_traceparent(value);
    ASSERT_TRUE(context.has_value()) << value;
    EXPECT_EQ(traceparent_text(*context), kGood) << value;
  }
}

TEST(Traceparent, ThatBreaksARuleIsNone) {
  for (const char* value : {
           "",
           "00",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
           "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
           "0X-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
           "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
       }) {
    EXPECT_EQ(parse_traceparent(value), std::nullopt) << value;
  }
}

TEST(Tracestate, IsAListOfMembers) {
  std::string many;
  for (int i = 0; i < 32; ++i) many += (i == 0 ? "k" : ",k") + std::to_string(i) + "=v";
  for (const std::string& value :
       {std::string("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"), std::string("a=b , c=d"),
        std::string("a=b,,c=d"), std::string("tenant@sys=1"), std::string("0_-*/x=! ~"), many})
    EXPECT_TRUE(is_tracestate(value)) << value;
  for (const std::string& value :
       {std::string(), std::string(","), std::string("a"), std::string("=b"), std::string("a="),
        std::string("A=b"), std::string("a=b=c"), std::string("a@b@c=d"), std::string("a=\x01"),
        many + ",one=more", "a=" + std::string(257, 'x'), std::string(257, 'a') + "=x"})
    EXPECT_FALSE(is_tracestate(value)) << value;
}

TEST(Context, ComesFromExactlyOneTraceparent) {
  EXPECT_EQ(context_of({}), std::nullopt);
  EXPECT_EQ(context_of(headers({{"TraceParent", kGood}}))->span, 0x00f067aa0ba902b7U);
  EXPECT_EQ(context_of(headers({{"traceparent", kGood}, {"traceparent", kGood}})), std::nullopt);
  EXPECT_EQ(context_of(headers({{"tracestate", "a=b"}})), std::nullopt);
}

TEST(Context, ABadTracestateIsDroppedAlone) {
  EXPECT_EQ(
      context_of(headers({{"traceparent", kGood}, {"tracestate", "a=b"}, {"tracestate", "c=d"}}))->state,
      "a=b,c=d");
  EXPECT_EQ(context_of(headers({{"traceparent", kGood}, {"tracestate", "a=b,!"}}))->state, "");
}

TEST(Context, IsPutInTheirPlace) {
  http::Headers out = headers({{"traceparent", "x"}, {"tracestate", "y"}, {"other", "z"}});
  TraceContext context = *parse_traceparent(kGood);
  put(context, out);
  EXPECT_EQ(context_of(out), context);
  EXPECT_FALSE(out.has("tracestate"));
  context.state = "a=b";
  put(context, out);
  EXPECT_EQ(out.get("tracestate"), "a=b");
  EXPECT_EQ(out.get("other"), "z");
}

TEST(Context, ANewSpanIsBelowItsParentOrBeginsATrace) {
  TraceContext parent = *parse_traceparent(kGood);
  parent.state = "a=b";
  parent.flags = 0;
  const TraceContext child = begin_span(parent);
  EXPECT_EQ(child.trace, parent.trace);
  EXPECT_NE(child.span, parent.span);
  EXPECT_EQ(child.flags, 0);
  EXPECT_EQ(child.state, "a=b");
  const TraceContext first = begin_span(std::nullopt);
  const TraceContext second = begin_span(std::nullopt);
  EXPECT_NE(first.trace, second.trace);
  EXPECT_TRUE(first.is_sampled());
  EXPECT_NE(first.span, 0U);
}

}  // namespace
}  // namespace baton::traces
