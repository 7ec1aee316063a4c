#include "traces/trace_context.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <random>

namespace baton::traces {
namespace {

constexpr size_t kVersionBytes = 2;
constexpr size_t kTraceBytes = 32;
constexpr size_t kSpanBytes = 16;
constexpr size_t kFlagsBytes = 2;
constexpr size_t kTraceAt = kVersionBytes + 1;
constexpr size_t kSpanAt = kTraceAt + kTraceBytes + 1;
constexpr size_t kFlagsAt = kSpanAt + kSpanBytes + 1;
constexpr size_t kParentBytes = kFlagsAt + kFlagsBytes;
constexpr size_t kKeyBytesMax = 256;
constexpr size_t kValueBytesMax = 256;

// Lower-case digits only.
std::optional<uint64_t> parse_hex(std::string_view text) {
  uint64_t value = 0;
  for (const char c : text) {
    unsigned digit = 0;
    if (c >= '0' && c <= '9') {
      digit = static_cast<unsigned>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<unsigned>(c - 'a') + 10;
    } else {
      return std::nullopt;
    }
    value = value << 4 | digit;
  }
  return value;
}

bool is_lower_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

bool is_key(std::string_view key) {
  const auto fits = [](char c) {
    return is_lower_or_digit(c) || c == '_' || c == '-' || c == '*' || c == '/' || c == '@';
  };
  return !key.empty() && key.size() <= kKeyBytesMax && is_lower_or_digit(key.front()) &&
         std::ranges::all_of(key, fits) && std::ranges::count(key, '@') <= 1;
}

bool is_member_value(std::string_view value) {
  const auto fits = [](char c) { return c >= 0x20 && c <= 0x7E && c != ',' && c != '='; };
  return !value.empty() && value.size() <= kValueBytesMax && std::ranges::all_of(value, fits) &&
         value.back() != ' ';
}

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") + 1 - first);
}

}  // namespace

std::optional<TraceContext> parse_traceparent(std::string_view value) {
  if (value.size() < kParentBytes) return std::nullopt;
  for (const size_t dash : {kTraceAt - 1, kSpanAt - 1, kFlagsAt - 1}) {
    if (value[dash] != '-') return std::nullopt;
  }
  const auto version = parse_hex(value.substr(0, kVersionBytes));
  const auto high = parse_hex(value.substr(kTraceAt, kTraceBytes / 2));
  const auto low = parse_hex(value.substr(kTraceAt + kTraceBytes / 2, kTraceBytes / 2));
  const auto span = parse_hex(value.substr(kSpanAt, kSpanBytes));
  const auto flags = parse_hex(value.substr(kFlagsAt, kFlagsBytes));
  if (!version || !high || !low || !span || !flags) return std::nullopt;
  if (*version == 0xFF || (*high | *low) == 0 || *span == 0) return std::nullopt;
  if (*version == 0 && value.size() != kParentBytes) return std::nullopt;
  if (value.size() > kParentBytes && value[kParentBytes] != '-') return std::nullopt;
  TraceContext context;
  context.trace = *TraceId::parse(value.substr(kTraceAt, kTraceBytes));
  context.span = *span;
  context.flags = static_cast<uint8_t>(*version == 0 ? *flags : *flags & kSampled);
  return context;
}

std::string traceparent_text(const TraceContext& context) {
  return fmt::format("00-{}-{:016x}-{:02x}", context.trace.hex(), context.span, context.flags);
}

bool is_tracestate(std::string_view value) {
  if (value.size() > kTraceStateBytesMax) return false;
  size_t members = 0;
  while (true) {
    const size_t comma = value.find(',');
    const std::string_view member = trimmed(value.substr(0, comma));
    if (!member.empty()) {  // empty members are allowed
      const size_t equals = member.find('=');
      if (equals == std::string_view::npos || !is_key(member.substr(0, equals)) ||
          !is_member_value(member.substr(equals + 1)))
        return false;
      if (++members > kTraceStateMembersMax) return false;
    }
    if (comma == std::string_view::npos) return members > 0;
    value.remove_prefix(comma + 1);
  }
}

std::optional<TraceContext> context_of(const http::Headers& headers) {
  std::optional<TraceContext> context;
  std::string state;
  size_t parents = 0;
  for (const http::Header header : headers) {
    if (http::equal_names(header.name, "traceparent")) {
      context = parse_traceparent(trimmed(header.value));
      ++parents;
    }
    if (http::equal_names(header.name, "tracestate")) {
      if (!state.empty()) state += ',';
      state += header.value;
    }
  }
  if (!context || parents != 1) return std::nullopt;
  if (is_tracestate(state)) context->state = std::move(state);
  return context;
}

void put(const TraceContext& context, http::Headers& headers) {
  headers.set("traceparent", traceparent_text(context));
  if (context.state.empty()) {
    headers.remove("tracestate");
  } else {
    headers.set("tracestate", context.state);
  }
}

uint64_t random_span_id() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  uint64_t id = 0;
  while (id == 0) id = random();
  return id;
}

TraceContext begin_span(const std::optional<TraceContext>& parent) {
  TraceContext context;
  if (parent) {
    context = *parent;
  } else {
    const HandoverId random = random_id<HandoverId>();
    context.trace.bytes = random.bytes;
  }
  context.span = random_span_id();
  return context;
}

}  // namespace baton::traces
