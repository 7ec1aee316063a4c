#include "http/message.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace baton::http {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Percent-decoding of form data; a '%' without two digits stands for itself.
std::string form_decode(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+') {
      decoded += ' ';
    } else if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
               hex_digit(text[i + 2]) >= 0) {
      decoded += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

std::string json_string(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      quoted += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

struct Status {
  int code;
  std::string_view phrase;
  std::string_view error_type;
};

constexpr Status kStatuses[] = {
    {100, "Continue", ""},
    {101, "Switching Protocols", ""},
    {200, "OK", ""},
    {201, "Created", ""},
    {202, "Accepted", ""},
    {204, "No Content", ""},
    {206, "Partial Content", ""},
    {301, "Moved Permanently", ""},
    {302, "Found", ""},
    {304, "Not Modified", ""},
    {307, "Temporary Redirect", ""},
    {308, "Permanent Redirect", ""},
    {400, "Bad Request", "BadRequestError"},
    {401, "Unauthorized", "AuthenticationError"},
    {403, "Forbidden", "PermissionDeniedError"},
    {404, "Not Found", "NotFoundError"},
    {405, "Method Not Allowed", "MethodNotAllowedError"},
    {408, "Request Timeout", "RequestTimeoutError"},
    {409, "Conflict", "ConflictError"},
    {411, "Length Required", "BadRequestError"},
    {413, "Content Too Large", "RequestTooLargeError"},
    {414, "URI Too Long", "BadRequestError"},
    {415, "Unsupported Media Type", "BadRequestError"},
    {417, "Expectation Failed", "BadRequestError"},
    {422, "Unprocessable Content", "UnprocessableEntityError"},
    {429, "Too Many Requests", "RateLimitError"},
    {431, "Request Header Fields Too Large", "RequestTooLargeError"},
    {499, "Client Closed Request", "ClientClosedRequestError"},
    {500, "Internal Server Error", "InternalServerError"},
    {501, "Not Implemented", "NotImplementedError"},
    {502, "Bad Gateway", "BadGatewayError"},
    {503, "Service Unavailable", "ServiceUnavailableError"},
    {504, "Gateway Timeout", "GatewayTimeoutError"},
    {505, "HTTP Version Not Supported", "BadRequestError"},
};

const Status* find_status(int code) {
  const auto* const found = std::ranges::lower_bound(kStatuses, code, {}, &Status::code);
  return found != std::end(kStatuses) && found->code == code ? found : nullptr;
}

}  // namespace

bool equal_names(std::string_view a, std::string_view b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return lower(x) == lower(y); });
}

bool is_field_value(std::string_view value) {
  return std::ranges::none_of(value, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && byte != '\t') || byte == 0x7F;
  });
}

void Headers::add(std::string_view name, std::string_view value) {
  CHECK(!name.empty() && name.find_first_of(std::string_view("\r\n\0:", 4)) == std::string_view::npos,
        "field name \"{}\"", name);
  CHECK(value.find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos,
        "field {} holds a line end", name);
  Field field;
  field.start = static_cast<uint32_t>(text_.size());
  field.name_bytes = static_cast<uint32_t>(name.size());
  field.value_bytes = static_cast<uint32_t>(value.size());
  text_ += name;
  text_ += value;
  fields_.push_back(field);
}

void Headers::set(std::string_view name, std::string_view value) {
  // Either may be a view into this very object.
  const std::string own_name(name);
  const std::string own_value(value);
  remove(own_name);
  add(own_name, own_value);
}

void Headers::remove(std::string_view name) {
  std::erase_if(fields_, [&](const Field& field) {
    return equal_names(std::string_view(text_).substr(field.start, field.name_bytes), name);
  });
}

void Headers::clear() {
  text_.clear();
  fields_.clear();
}

std::optional<std::string_view> Headers::get(std::string_view name) const {
  for (size_t i = 0; i < fields_.size(); ++i) {
    if (fields_[i].name_bytes != name.size()) continue;
    const Header header = (*this)[i];
    if (equal_names(header.name, name)) return header.value;
  }
  return std::nullopt;
}

Header Headers::operator[](size_t i) const {
  const Field& field = fields_[i];
  const std::string_view text = text_;
  return {text.substr(field.start, field.name_bytes),
          text.substr(field.start + field.name_bytes, field.value_bytes)};
}

std::string_view Request::path() const { return std::string_view(target).substr(0, target.find('?')); }

std::string_view Request::query() const {
  const size_t mark = target.find('?');
  return mark == std::string::npos ? std::string_view() : std::string_view(target).substr(mark + 1);
}

std::optional<std::string> Request::query_value(std::string_view name) const {
  std::string_view rest = query();
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    const size_t equals = std::min(pair.find('='), pair.size());
    if (form_decode(pair.substr(0, equals)) == name) {
      return form_decode(pair.substr(std::min(equals + 1, pair.size())));
    }
    rest.remove_prefix(std::min(pair.size() + 1, rest.size()));
  }
  return std::nullopt;
}

std::string_view reason_phrase(int status) {
  const Status* const found = find_status(status);
  return found != nullptr ? found->phrase : std::string_view();
}

std::string error_body(int status, std::string_view message) {
  const Status* const found = find_status(status);
  std::string_view type = found != nullptr ? found->error_type : std::string_view();
  if (type.empty()) type = status < 500 ? "BadRequestError" : "InternalServerError";
  return fmt::format(R"({{"error":{{"message":{},"type":"{}","param":null,"code":{}}}}})",
                     json_string(message), type, status);
}

}  // namespace baton::http
