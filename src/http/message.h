// What an HTTP/1.1 message is made of, as plain values (RFC 9110, RFC 9112).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "net/address.h"

namespace baton::http {

struct Header {
  std::string_view name;  // as it was written; compare with equal_names
  std::string_view value;
};

// Field names are compared without regard to ASCII case (RFC 9110, 5.1).
bool equal_names(std::string_view a, std::string_view b);

// The fields of a message in their order. One allocation for the text, one for the index, however many
// fields.
class Headers {
 public:
  // `name` and `value` must hold no CR, LF or NUL: CHECK. Values that come from outside are checked with
  // is_field_value first.
  void add(std::string_view name, std::string_view value);
  void set(std::string_view name, std::string_view value);  // replaces every field of that name
  void remove(std::string_view name);
  void clear();

  std::optional<std::string_view> get(std::string_view name) const;  // the first of that name
  bool has(std::string_view name) const { return get(name).has_value(); }
  size_t size() const { return fields_.size(); }
  bool empty() const { return fields_.empty(); }
  Header operator[](size_t i) const;  // i < size(); views live until the next change

  class Iterator {
   public:
    Iterator(const Headers* headers, size_t i) : headers_(headers), i_(i) {}
    Header operator*() const { return (*headers_)[i_]; }
    Iterator& operator++() { return ++i_, *this; }
    bool operator==(const Iterator&) const = default;

   private:
    const Headers* headers_;
    size_t i_;
  };
  Iterator begin() const { return {this, 0}; }
  Iterator end() const { return {this, size()}; }

 private:
  struct Field {
    uint32_t start = 0;  // of the name in text_; the value follows it
    uint32_t name_bytes = 0;
    uint32_t value_bytes = 0;
  };
  std::string text_;
  std::vector<Field> fields_;
};

bool is_field_value(std::string_view value);  // free of control characters other than tab (RFC 9110, 5.5)

// One request as the server has read it whole.
struct Request {
  std::string method;  // "GET", "POST", ...; case matters
  std::string target;  // origin form, "/v1/models?x=1"; an absolute form has lost its scheme and authority
  Headers headers;
  std::string body;  // chunks joined; at most ServerOptions::body_bytes_max
  net::Endpoint peer;
  bool keep_alive = true;  // whether the client lets the connection go on
  bool is_http10 = false;

  std::string_view path() const;   // of target, up to '?', not percent-decoded
  std::string_view query() const;  // of target, after '?'
  // The first value of a query parameter, percent-decoded, '+' as a space.
  std::optional<std::string> query_value(std::string_view name) const;
};

// One whole response: what a handler sends, what a client gets.
struct Response {
  int status = 200;
  Headers headers;  // without framing (Content-Length, Transfer-Encoding, Connection): the room adds it
  std::string body;
};

std::string_view reason_phrase(int status);  // "Not Found"; "" for a status that is not known

// {"error":{"message":...,"type":...,"param":null,"code":404}}, type as vLLM names it ("NotFoundError").
// What the room itself answers with, before any handler: malformed requests, limits.
std::string error_body(int status, std::string_view message);

}  // namespace baton::http
