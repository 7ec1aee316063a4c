#include "http/parser.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace baton::http {
namespace {

struct Read {
  int status = 0;  // of the refusal
  std::string body;
  bool done = false;
  std::string rest;
};

// Feeds `piece_bytes` at a time, giving again what was not consumed.
Read read_request(std::string_view bytes, size_t piece_bytes, ParserLimits limits = {}) {
  RequestParser parser(limits);
  Read read;
  for (size_t at = 0; at < bytes.size(); at += piece_bytes) {
    read.rest += bytes.substr(at, piece_bytes);
    const auto consumed = parser.feed(read.rest);
    if (!consumed) {
      read.status = consumed.error().status;
      return read;
    }
    read.rest.erase(0, *consumed);
  }
  read.done = parser.done();
  read.body = parser.request().body;
  return read;
}

Read read_response(std::string_view bytes, size_t piece_bytes) {
  ResponseParser parser({});
  Read read;
  for (size_t at = 0; at < bytes.size(); at += piece_bytes) {
    read.rest += bytes.substr(at, piece_bytes);
    const auto consumed = parser.feed(read.rest, read.body);
    if (!consumed) {
      read.status = consumed.error().status;
      return read;
    }
    read.rest.erase(0, *consumed);
  }
  read.done = parser.done();
  return read;
}

struct Chunks {
  const char* name;
  std::string_view bytes;  // behind a head that announces chunks
  int status;              // 0: whole
  std::string_view body;
};

const std::vector<Chunks> kChunks = {
    {"one", "2\r\nab\r\n0\r\n\r\n", 0, "ab"},
    {"none", "0\r\n\r\n", 0, ""},
    {"single bytes", "1\r\na\r\n1\r\nb\r\n0\r\n\r\n", 0, "ab"},
    {"trailer", "1\r\na\r\n0\r\nT: v\r\nContent-Type: x\r\n\r\n", 0, "a"},
    {"extensions", "1;a;b=\"c\"\r\na\r\n0;d\r\n\r\n", 0, "a"},
    {"leading zeros", "0001\r\na\r\n000\r\n\r\n", 0, "a"},
    {"upper case", "A\r\n0123456789\r\n0\r\n\r\n", 0, "0123456789"},
    {"a line end in the data", "4\r\n\r\n\r\n\r\n0\r\n\r\n", 0, "\r\n\r\n"},
    {"a last chunk that is none", "0\r\nhi\r\n0\xFF\x0F: v\r\n\r\n", 400, ""},
    {"data longer than its size", "1\r\nab\r\n0\r\n\r\n", 400, ""},
    {"no size", "\r\na\r\n", 400, ""},
    {"a bad trailer", "0\r\nno colon\r\n\r\n", 400, ""},
};

TEST(Parsers, ReadChunksHoweverTheBytesAreCut) {
  for (const Chunks& row : kChunks) {
    const std::string request =
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + std::string(row.bytes);
    const std::string response =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + std::string(row.bytes);
    for (size_t piece_bytes = 1; piece_bytes <= request.size(); ++piece_bytes) {
      for (const Read& read : {read_request(request, piece_bytes), read_response(response, piece_bytes)}) {
        ASSERT_EQ(read.status, row.status) << row.name << " in pieces of " << piece_bytes;
        if (row.status != 0) continue;
        ASSERT_TRUE(read.done) << row.name << " in pieces of " << piece_bytes;
        ASSERT_EQ(read.body, row.body) << row.name;
        ASSERT_EQ(read.rest, "") << row.name;
      }
    }
  }
}

TEST(RequestParser, LeavesTheNextRequestAlone) {
  RequestParser parser({});
  const std::string_view two = "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n";
  const auto first = parser.feed(two);
  ASSERT_TRUE(first.has_value() && parser.done());
  EXPECT_EQ(parser.request().target, "/1");
  parser.reset();
  EXPECT_TRUE(parser.request().headers.empty());
  ASSERT_TRUE(parser.feed(two.substr(*first)).has_value());
  EXPECT_EQ(parser.request().target, "/2");
}

struct Head {
  const char* name;
  std::string bytes;
  int status;  // 0: whole
};

// The limit counts raw bytes, also of blanks and folded lines that no field's value keeps.
TEST(RequestParser, JudgesAHeadTheSameHoweverItIsCut) {
  constexpr size_t kLimit = 64;
  const auto padded = [](size_t bytes) {
    const std::string start = "GET / HTTP/1.1\r\nHost:";
    return start + std::string(bytes - start.size() - 5, ' ') + "a\r\n\r\n";
  };
  const std::vector<Head> heads = {
      {"fills the limit", padded(kLimit), 0},
      {"one byte more", padded(kLimit + 1), 431},
      {"folded above the limit", "GET / HTTP/1.1\r\nHost:\r\n  a" + std::string(40, ' ') + "\r\n\r\n", 431},
      {"no end", "GET /" + std::string(kLimit, 'x'), 431},
      {"no end, no line", std::string(kLimit + 1, 'x'), 431},
      {"LF alone", "GET / HTTP/1.1\nHost: a\n\n", 400},
      {"a TLS hello", "\x16\x03\x01", 400},
      {"no field Host", "GET / HTTP/1.1\r\n\r\n", 400},
  };
  for (const Head& head : heads) {
    for (size_t piece = 1; piece <= head.bytes.size(); ++piece) {
      const Read read = read_request(head.bytes, piece, {.head_bytes_max = kLimit});
      ASSERT_EQ(read.status, head.status) << head.name << " in pieces of " << piece;
      ASSERT_EQ(read.done, head.status == 0) << head.name << " in pieces of " << piece;
    }
  }
}

TEST(Headers, AreFoundWithoutRegardToCase) {
  Headers headers;
  headers.add("X-Request-Id", "1");
  headers.add("x-REQUEST-id", "2");
  headers.add("Other", "");
  EXPECT_EQ(headers.get("x-request-id"), "1");
  EXPECT_EQ(headers.get("other"), "");
  EXPECT_FALSE(headers.get("x-request-i").has_value());
  headers.set("X-request-ID", *headers.get("X-Request-Id"));
  EXPECT_EQ(headers.size(), 2U);
  EXPECT_EQ(headers[1].value, "1");
  EXPECT_DEATH(headers.add("a", "b\r\nc: d"), "line end");
}

TEST(Request, TakesItsTargetApart) {
  Request request;
  request.target = "/a%20b?x=1&y=a+b%21&z&x=2&=q";
  EXPECT_EQ(request.path(), "/a%20b");
  EXPECT_EQ(request.query_value("x"), "1");
  EXPECT_EQ(request.query_value("y"), "a b!");
  EXPECT_EQ(request.query_value("z"), "");
  EXPECT_FALSE(request.query_value("w").has_value());
  request.target = "/";
  EXPECT_EQ(request.query(), "");
  EXPECT_FALSE(request.query_value("").has_value());
}

TEST(ErrorBody, IsJsonWhateverTheMessage) {
  EXPECT_EQ(error_body(404, "no \"x\"\n"),
            R"({"error":{"message":"no \"x\"\u000a","type":"NotFoundError","param":null,"code":404}})");
}

}  // namespace
}  // namespace baton::http
