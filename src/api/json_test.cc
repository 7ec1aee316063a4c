#include "api/json.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <limits>
#include <random>

namespace baton::api {
namespace {

std::string as_json(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

TEST(JsonString, EscapesWhatJsonAsksForAndNothingElse) {
  struct Row {
    std::string_view text;
    std::string_view json;
  };
  using namespace std::string_view_literals;
  for (const Row& row : {Row{"", "\"\""}, Row{"plain", "\"plain\""}, Row{"a\"b\\c", "\"a\\\"b\\\\c\""},
                         Row{"\n\r\t\b\f", "\"\\n\\r\\t\\b\\f\""}, Row{"\0\x1f"sv, "\"\\u0000\\u001f\""},
                         Row{"é€😀", "\"é€😀\""}, Row{"\x7f/", "\"\x7f/\""}}) {
    EXPECT_EQ(as_json(row.text), row.json);
  }
}

TEST(JsonString, ReplacesWhatIsNotUtf8) {
  struct Row {
    std::string_view text;
    std::string_view json;
  };
  using namespace std::string_view_literals;
  for (const Row& row :
       {Row{"\xff", "\"\uFFFD\""}, Row{"a\xe2\x82z", "\"a\uFFFDz\""},        // cut short: one
        Row{"\xe2\x82", "\"\uFFFD\""}, Row{"\xc0\xaf", "\"\uFFFD\uFFFD\""},  // overlong
        Row{"\xed\xa0\x80", "\"\uFFFD\uFFFD\uFFFD\""},                       // surrogate
        Row{"\xf4\x90\x80\x80", "\"\uFFFD\uFFFD\uFFFD\uFFFD\""}, Row{"\x80", "\"\uFFFD\""}}) {
    EXPECT_EQ(as_json(row.text), row.json);
  }
}

TEST(JsonString, EveryStringOfBytesIsReadBackByAnotherParser) {
  std::mt19937 random(7);  // NOLINT: a fixed seed
  for (int round = 0; round < 5000; ++round) {
    std::string text(random() % 12, '\0');
    for (char& c : text) c = static_cast<char>(random());
    boost::system::error_code error;
    const json::value back = json::parse(as_json(text), error);
    ASSERT_FALSE(error) << as_json(text);
    if (text.find_first_of("\x80") == std::string::npos &&
        std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; })) {
      EXPECT_EQ(back.as_string(), text);
    }
  }
}

TEST(JsonNumber, AFloatKeepsItsBitsThroughTextAndParser) {
  std::mt19937 random(11);  // NOLINT: a fixed seed
  for (int round = 0; round < 20000; ++round) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    std::string text;
    append_json_number(text, value);
    if (!std::isfinite(value)) {
      EXPECT_EQ(text, "null");
      continue;
    }
    const json::value back = json::parse(text);
    EXPECT_EQ(static_cast<float>(back.to_number<double>()), value) << text;
  }
}

TEST(ParseJson, RefusesWithThePlace) {
  struct Row {
    std::string_view text;
    std::string_view message;
  };
  for (const Row& row :
       {Row{"", "body: not JSON at byte 0: "}, Row{"{\"a\":}", "body: not JSON at byte "},
        Row{"{} {}", "body: not JSON at byte 3: "}, Row{"{\"a\":1", "body: not JSON at byte 6: "},
        Row{"\"\xff\"", "body: not JSON at byte "}}) {
    const auto value = parse_json(row.text);
    ASSERT_FALSE(value) << row.text;
    EXPECT_EQ(value.error().code, Code::kInvalid);
    EXPECT_TRUE(value.error().message.starts_with(row.message)) << value.error().message;
  }
}

TEST(ParseJson, RefusesANumberThatNoDoubleHolds) {
  // 0e400 is read as 0 times 10 to the 400th: a NaN, which no range would keep out.
  for (const char* text : {"1e400", "-1e309", "0e4000", R"([1, [1e400]])", R"({"a": {"b": [0, 0e400]}})"}) {
    const auto document = parse_json(text);
    ASSERT_FALSE(document) << text;
    EXPECT_EQ(document.error().message,
              "body: a number that no double holds, expected at most 1.79769e+308 in magnitude");
  }
  for (const char* text : {"1e308", "0e10", "1e-400", "[18446744073709551615]"})
    EXPECT_TRUE(parse_json(text)) << text;
}

TEST(ParseJson, HasABoundOnDepthAndBytes) {
  const std::string fits = std::string(kJsonDepthMax, '[') + std::string(kJsonDepthMax, ']');
  EXPECT_TRUE(parse_json(fits));
  EXPECT_FALSE(parse_json("[" + fits + "]"));
  EXPECT_EQ(parse_json("[1,2]", 4).error().message, "body: 5 bytes, expected at most 4");
}

TEST(ParseJson, WantsAnObjectWhereOneIsDue) {
  EXPECT_EQ(parse_json_object("[1]").error().message, "body: [1], expected a JSON object");
  EXPECT_TRUE(parse_json_object(" {} "));
}

TEST(ObjectBytes, KeepsEveryByteOfWhatItDoesNotTouch) {
  const std::string_view body =
      R"( { "a" : 1.0e2 , "big":123456789012345678901234567890,"s":"\u00e9\"}" ,"o":{ "x": [1 , {"y":null}] },)"
      R"("kv_transfer_params": {"remote_port": 1.50} , "t":true} )";
  auto object = ObjectBytes::parse(body);
  ASSERT_TRUE(object) << object.error().message;
  EXPECT_EQ(object->find("a"), "1.0e2");
  EXPECT_EQ(object->find("big"), "123456789012345678901234567890");
  EXPECT_EQ(object->find("s"), R"("\u00e9\"}")");
  EXPECT_EQ(object->find("o"), R"({ "x": [1 , {"y":null}] })");
  EXPECT_EQ(object->find("kv_transfer_params"), R"({"remote_port": 1.50})");
  EXPECT_EQ(object->find("none"), std::nullopt);
  object->set("a", "7");
  object->set("stream", "false");
  object->remove("o");
  EXPECT_EQ(object->str(),
            R"({"a":7,"big":123456789012345678901234567890,"s":"\u00e9\"}","kv_transfer_params":)"
            R"({"remote_port": 1.50},"t":true,"stream":false})");
}

TEST(ObjectBytes, SeesThroughEscapedAndRepeatedKeys) {
  auto object = ObjectBytes::parse(R"({"k":1,"\u006b":2,"x":3,"k":4})");
  ASSERT_TRUE(object);
  EXPECT_EQ(object->find("k"), "4");
  object->set("k", "5");
  EXPECT_EQ(object->str(), R"({"k":5,"x":3})");
  object->remove("k");
  EXPECT_EQ(object->str(), R"({"x":3})");
}

TEST(ObjectBytes, RefusesWhatIsNotOneObjectInTheWordsOfTheOtherParser) {
  for (const std::string_view text : {"", "[]", "1", "{", "{\"a\":1", "{\"a\" 1}", "{} x", "{\"a\":truex}",
                                      "{\"a\":01}", "{\"a\":\"\xff\"}", "{\"a\":{\"b\":1}", "null"}) {
    const auto object = ObjectBytes::parse(text);
    ASSERT_FALSE(object) << text;
    EXPECT_EQ(object.error().message, parse_json_object(text).error().message) << text;
  }
}

TEST(Excerpt, IsShortAndNeverCutsACharacter) {
  json::value text = json::string(std::string(62, 'a') + "é€");
  const std::string shown = excerpt(text);
  EXPECT_LE(shown.size(), 64U);
  EXPECT_TRUE(shown.ends_with("..."));
  EXPECT_EQ(excerpt(json::parse("[1,2]")), "[1,2]");
}

}  // namespace
}  // namespace baton::api
