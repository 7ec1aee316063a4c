// How a function says that it could not do what it was asked: input, I/O, peers and capacity fail with a
// value; broken invariants die by CHECK (base/check.h). Nothing in src/ throws.
#pragma once

#include <expected>
#include <string>
#include <utility>

namespace baton {

// What kind of failure this is; api/ maps each to one HTTP status.
enum class Code {
  kInvalid,      // the caller's input is wrong; it will stay wrong
  kNotFound,     // the named thing does not exist here
  kExhausted,    // a bounded resource is full; later may work
  kUnavailable,  // the peer or this process cannot serve now
  kTimeout,      // a deadline passed
  kCancelled,    // somebody asked for it to stop
  kIo,           // the operating system said no
  kCorrupt,      // bytes are not what their format promises
  kDenied,       // the caller may not do this
};

// The name of a code as it appears in logs and metrics: "invalid", "not_found", ...
constexpr const char* code_name(Code code) {
  switch (code) {
    case Code::kInvalid:
      return "invalid";
    case Code::kNotFound:
      return "not_found";
    case Code::kExhausted:
      return "exhausted";
    case Code::kUnavailable:
      return "unavailable";
    case Code::kTimeout:
      return "timeout";
    case Code::kCancelled:
      return "cancelled";
    case Code::kIo:
      return "io";
    case Code::kCorrupt:
      return "corrupt";
    case Code::kDenied:
      return "denied";
  }
  return "unknown";
}

// A failure. `message` names the thing, the value and what was expected:
// "tokenizer.json: merges[1042]: expected 2 symbols, got 3". `param` is the request field at fault, if any.
struct Error {
  Code code = Code::kInvalid;
  std::string message;
  std::string param = {};

  bool operator==(const Error&) const = default;
};

template <class T>
using Result = std::expected<T, Error>;

using Failure = std::unexpected<Error>;

// `return fail(Code::kInvalid, "...")` from any function that returns a Result.
inline Failure fail(Code code, std::string message, std::string param = {}) {
  return Failure(Error{code, std::move(message), std::move(param)});
}

}  // namespace baton

#define BATON_CONCAT_INNER(a, b) a##b
#define BATON_CONCAT(a, b) BATON_CONCAT_INNER(a, b)
#define BATON_TRY_INNER(tmp, decl, ...)                      \
  auto tmp = (__VA_ARGS__);                                  \
  if (!tmp) return ::baton::Failure(std::move(tmp).error()); \
  decl = *std::move(tmp)
#define BATON_CO_TRY_INNER(tmp, decl, ...)                      \
  auto tmp = (__VA_ARGS__);                                     \
  if (!tmp) co_return ::baton::Failure(std::move(tmp).error()); \
  decl = *std::move(tmp)

// Statements, not expressions: TRY(const auto config, parse(text)); passes an error up or declares the value.
#define TRY(decl, ...) BATON_TRY_INNER(BATON_CONCAT(try_, __COUNTER__), decl, __VA_ARGS__)
#define TRY_DO(...)                                                                                     \
  do {                                                                                                  \
    if (auto try_done = (__VA_ARGS__); !try_done) return ::baton::Failure(std::move(try_done).error()); \
  } while (false)
// The same inside a coroutine. `expr` may itself be a co_await.
#define CO_TRY(decl, ...) BATON_CO_TRY_INNER(BATON_CONCAT(try_, __COUNTER__), decl, __VA_ARGS__)
#define CO_TRY_DO(...)                                                                                     \
  do {                                                                                                     \
    if (auto try_done = (__VA_ARGS__); !try_done) co_return ::baton::Failure(std::move(try_done).error()); \
  } while (false)
