// Values of the engine's mailbox as bytes: one list of fields per type, read and written by the same code.
// Little-endian; lists and strings begin with a u32 count; optionals and variants with a u8. Reading trusts
// nothing: it never goes beyond the bytes, asks for no more memory than they fill, and names the first field
// that is not what it has to be.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <fmt/format.h>

#include "engine/engine.h"
#include "engine/recorder.h"
#include "transfer/messages.h"

namespace baton::engine {

inline constexpr uint32_t kListMax = 128 * 1024;  // entries of a list of structures; twice a full mailbox

class Writer {
 public:
  static constexpr bool kReads = false;
  explicit Writer(std::vector<std::byte>& out) : out_(out) {}
  void bytes(const void* data, size_t count) {
    const auto* from = static_cast<const std::byte*>(data);
    out_.insert(out_.end(), from, from + count);
  }
  bool ok() const { return true; }

 private:
  std::vector<std::byte>& out_;
};

class Reader {
 public:
  static constexpr bool kReads = true;
  explicit Reader(std::span<const std::byte> in) : in_(in) {}
  void bytes(void* data, size_t count) {
    const auto from = take(count);
    if (!from.empty()) std::memcpy(data, from.data(), from.size());
  }
  // Empty if there are fewer.
  std::span<const std::byte> take(size_t count) {
    if (!need(count)) return {};
    const auto taken = in_.first(count);
    in_ = in_.subspan(count);
    return taken;
  }
  bool need(size_t count) {
    if (count > in_.size()) fail(fmt::format("{} bytes are left, expected {}", in_.size(), count));
    return ok();
  }
  size_t left() const { return in_.size(); }
  bool ok() const { return error_.empty(); }
  // "inbox[3].request.sampling.n: 1 bytes are left, expected 4"; of the first failure.
  const std::string& error() const { return error_; }
  void fail(std::string_view what) {
    in_ = {};
    if (!ok()) return;
    for (const Place& place : path_) {
      if (place.name.empty()) {
        error_ += fmt::format("[{}]", place.index);
      } else {
        error_ += fmt::format("{}{}", error_.empty() ? "" : ".", place.name);
      }
    }
    error_ += fmt::format("{}{}", error_.empty() ? "" : ": ", what);
  }
  void enter(std::string_view name) { path_.push_back({name, 0}); }
  void enter(size_t index) { path_.push_back({{}, index}); }
  void leave() { path_.pop_back(); }

 private:
  struct Place {
    std::string_view name;  // of a field; empty: an entry of a list
    size_t index;
  };
  std::span<const std::byte> in_;
  std::vector<Place> path_;
  std::string error_;
};

// ---- leaves and containers ----

template <class A, class T>
void field(A& a, T& x);

// Enumerations of which not every number is a value: their last one.
constexpr Code last_value(Code) { return Code::kDenied; }
constexpr DType last_value(DType) { return DType::kF8E4M3; }
constexpr FinishReason last_value(FinishReason) { return FinishReason::kError; }
constexpr LandingFailure last_value(LandingFailure) { return LandingFailure::kFail; }
constexpr SchedulingPolicy last_value(SchedulingPolicy) { return SchedulingPolicy::kPriority; }
constexpr transfer::Transport last_value(transfer::Transport) { return transfer::Transport::kFake; }
constexpr transfer::Flow last_value(transfer::Flow) { return transfer::Flow::kFromCaller; }

template <class A, class T>
void enumeration(A& a, T& x) {
  using Raw = std::underlying_type_t<std::remove_const_t<T>>;
  constexpr Raw kLast = std::to_underlying(last_value(std::remove_const_t<T>{}));
  Raw raw = A::kReads ? Raw{} : static_cast<Raw>(x);
  a.bytes(&raw, sizeof(raw));
  if constexpr (A::kReads) {
    if (raw < 0 || raw > kLast) return a.fail(fmt::format("{} is no value, expected 0 to {}", raw, kLast));
    x = static_cast<T>(raw);
  }
}

// Lists of numbers and strings: their bytes are there before memory for them is.
template <class A, class T>
void numbers(A& a, T& x, uint32_t count) {
  using Element = typename std::remove_const_t<T>::value_type;
  if constexpr (A::kReads) {
    if (!a.need(size_t{count} * sizeof(Element))) return;
    x.resize(count);
  }
  a.bytes(x.data(), size_t{count} * sizeof(Element));
}

template <class A, class T>
void sequence(A& a, T& x) {
  auto count = static_cast<uint32_t>(x.size());
  a.bytes(&count, sizeof(count));
  if (!a.ok()) return;
  if constexpr (std::is_arithmetic_v<typename std::remove_const_t<T>::value_type>) {
    numbers(a, x, count);
  } else if constexpr (A::kReads) {
    if (count > kListMax) return a.fail(fmt::format("{} entries, expected at most {}", count, kListMax));
    x.clear();
    for (uint32_t i = 0; i < count && a.ok(); ++i) {
      a.enter(size_t{i});
      field(a, x.emplace_back());
      a.leave();
    }
  } else {
    for (auto& element : x) field(a, element);
  }
}

template <class A, class T>
void leaf(A& a, T& x) {
  if constexpr (std::is_same_v<std::remove_const_t<T>, bool>) {
    uint8_t byte = A::kReads ? 0 : static_cast<uint8_t>(x);
    a.bytes(&byte, 1);
    if constexpr (A::kReads) {
      if (byte > 1) a.fail(fmt::format("{} is no truth value, expected 0 or 1", byte));
      x = byte == 1;
    }
  } else {
    a.bytes(&x, sizeof(x));  // a number, or an id, of which every value is one
  }
}

template <class T>
inline constexpr bool kIsId = false;
template <class Tag>
inline constexpr bool kIsId<Id128<Tag>> = true;
template <class T>
inline constexpr bool kIsOptional = false;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;
template <class T>
inline constexpr bool kIsVector = std::is_same_v<T, std::string>;
template <class T>
inline constexpr bool kIsVector<std::vector<T>> = true;
template <class T>
inline constexpr bool kIsPair = false;
template <class T, class U>
inline constexpr bool kIsPair<std::pair<T, U>> = true;
template <class T>
inline constexpr bool kIsVariant = false;
template <class... T>
inline constexpr bool kIsVariant<std::variant<T...>> = true;

template <class A, class T>
void optional_field(A& a, T& x) {
  bool has = A::kReads ? false : x.has_value();
  field(a, has);
  if constexpr (A::kReads) {
    if (!a.ok()) return;
    x.reset();
    if (has) x.emplace();
  }
  if (has) field(a, *x);
}

template <size_t I = 0, class V>
bool emplace_alternative(V& x, size_t which) {
  if constexpr (I < std::variant_size_v<V>) {
    if (which == I) {
      x.template emplace<I>();
      return true;
    }
    return emplace_alternative<I + 1>(x, which);
  } else {
    return false;
  }
}

template <class A, class T>
void variant_field(A& a, T& x) {
  auto which = static_cast<uint8_t>(x.index());
  field(a, which);
  if constexpr (A::kReads) {
    if (!a.ok()) return;
    if (!emplace_alternative(x, which)) {
      return a.fail(fmt::format("{} is no kind, expected 0 to {}", which,
                                std::variant_size_v<std::remove_const_t<T>> - 1));
    }
  }
  std::visit([&](auto& one) { field(a, one); }, x);
}

// ---- structs ----

template <class A, class... T>
void fields(A& a, T&... x) {
  (field(a, x), ...);
}

// Reads one field and takes its name, the first of "x.first, x.second.third", off `names`.
template <class A, class T>
void read_named(A& a, std::string_view& names, T& x) {
  std::string_view name = names.substr(0, names.find(','));
  names.remove_prefix(std::min(names.size(), name.size() + 1));
  name.remove_prefix(name.find('.') + 1);
  a.enter(name);
  field(a, x);
  a.leave();
}

template <class A, class... T>
void named_fields(A& a, std::string_view names, T&... x) {
  if constexpr (A::kReads) {
    (read_named(a, names, x), ...);
  } else {
    (field(a, x), ...);
  }
}

// The fields of a structure, each written `structure.field`, so that an error can name it.
#define FIELDS(archive, ...) named_fields(archive, #__VA_ARGS__, __VA_ARGS__)

template <class T, class U>
concept Same = std::is_same_v<std::remove_const_t<T>, U>;

template <class A, class T>
void error_field(A& a, T& x) {
  FIELDS(a, x.code, x.message, x.param);
}

inline Result<transfer::Message> read_message(std::span<const std::byte> frame) {
  constexpr size_t kHead = transfer::kFrameHeadBytes;
  if (frame.size() < kHead) {
    return fail(Code::kCorrupt,
                fmt::format("a frame of {} bytes, expected at least {}", frame.size(), kHead));
  }
  TRY(const auto head, transfer::parse_head(frame.first<kHead>()));
  if (head.body_bytes != frame.size() - kHead || head.kind == transfer::FrameKind::kKvFrame) {
    return fail(Code::kCorrupt,
                fmt::format("a frame of kind {} with {} of {} bytes, expected a whole message",
                            std::to_underlying(head.kind), frame.size() - kHead, head.body_bytes));
  }
  return transfer::parse_body(head.kind, frame.subspan(kHead));
}

template <class A, class T>
void message_field(A& a, T& x) {
  std::vector<std::byte> frame;
  if constexpr (!A::kReads) frame = transfer::encode(x);
  auto count = static_cast<uint32_t>(frame.size());
  field(a, count);
  if constexpr (!A::kReads) {
    a.bytes(frame.data(), frame.size());
  } else {
    auto message = read_message(a.take(count));
    if (!message) return a.fail(message.error().message);
    x = std::move(*message);
  }
}

template <class A, class T>
void request_part(A& a, T& x) {
  if constexpr (Same<T, SamplingParams>) {
    FIELDS(a, x.temperature, x.top_p, x.top_k, x.min_p, x.repetition_penalty, x.presence_penalty,
           x.frequency_penalty, x.logit_bias, x.allowed_token_ids, x.seed, x.n, x.max_tokens, x.min_tokens,
           x.eos_token_ids, x.stop_token_ids, x.ignore_eos, x.logprobs, x.prompt_logprobs);
  } else if constexpr (Same<T, TokenLogprob>) {
    FIELDS(a, x.token, x.logprob, x.rank);
  } else if constexpr (Same<T, PositionLogprobs>) {
    FIELDS(a, x.self, x.top);
  } else if constexpr (Same<T, DrawnToken>) {
    FIELDS(a, x.token, x.logprobs, x.finish, x.stop_token);
  } else if constexpr (Same<T, FirstTokens>) {
    FIELDS(a, x.choices, x.digest);
  } else if constexpr (Same<T, RemotePrefill>) {
    FIELDS(a, x.is_layerwise, x.host, x.port, x.engine_id, x.incarnation, x.handover, x.tokens, x.prompt_hash,
           x.first_tokens);
  } else if constexpr (Same<T, RemoteLanding>) {
    FIELDS(a, x.host, x.port, x.engine_id, x.incarnation, x.transfer);
  } else if constexpr (Same<T, Request>) {
    FIELDS(a, x.id, x.external_id, x.prompt, x.sampling, x.priority, x.cache_salt, x.deadline, x.hold,
           x.remote_landing, x.remote, x.transfer, x.drawn_before, x.is_returnable);
  } else if constexpr (Same<T, DrawnBefore>) {
    FIELDS(a, x.tokens, x.finished);
  } else if constexpr (Same<T, Timeline>) {
    FIELDS(a, x.boundaries(), x.ended_at());
  } else if constexpr (Same<T, Timeline::Boundary>) {
    FIELDS(a, x.phase, x.since);
  } else {
    static_assert(!sizeof(T), "no field list");
  }
}

template <class A, class T>
void mover_part(A& a, T& x) {
  if constexpr (Same<T, transfer::PeerUp>) {
    FIELDS(a, x.peer, x.identity, x.transport, x.authenticated, x.flow);
  } else if constexpr (Same<T, transfer::PeerLost>) {
    FIELDS(a, x.peer, x.error);
  } else if constexpr (Same<T, transfer::Received>) {
    FIELDS(a, x.peer, x.message);
  } else if constexpr (Same<T, transfer::Landed>) {
    FIELDS(a, x.transfer, x.bytes);
  } else if constexpr (Same<T, transfer::PushProgress>) {
    FIELDS(a, x.peer, x.transfer, x.bytes);
  } else if constexpr (Same<T, transfer::MoveFailed>) {
    FIELDS(a, x.transfer, x.error);
  } else if constexpr (Same<T, transfer::StoresStopped>) {
    FIELDS(a, x.transfer);
  } else if constexpr (Same<T, transfer::Identity>) {
    FIELDS(a, x.protocol, x.engine_id, x.incarnation, x.fingerprint, x.layout, x.tp_size, x.dp_size,
           x.boot_id, x.max_model_len);
  } else if constexpr (Same<T, kv::KvLayout>) {
    FIELDS(a, x.layers, x.kind, x.kv_heads, x.head_dim, x.block_tokens, x.dtype);
  } else {
    request_part(a, x);
  }
}

template <class A, class T>
void inbox_part(A& a, T& x) {
  if constexpr (Same<T, Submit>) {
    FIELDS(a, x.request);
  } else if constexpr (Same<T, Abort>) {
    FIELDS(a, x.request, x.reason);
  } else if constexpr (Same<T, StopChoice>) {
    FIELDS(a, x.request, x.choice);
  } else if constexpr (Same<T, ReleaseHeld>) {
    FIELDS(a, x.handover, x.reason);
  } else if constexpr (Same<T, ReservationRefused>) {
    FIELDS(a, x.transfer, x.error);
  } else if constexpr (Same<T, ResetPrefixCache> || Same<T, Drain>) {
  } else if constexpr (Same<T, ScheduleLimits>) {
    FIELDS(a, x.seqs_max, x.batch_tokens_max, x.step_max, x.policy, x.returns);
  } else if constexpr (Same<T, EngineConfig>) {
    FIELDS(a, x.limits, x.waiting_max, x.model_tokens_max, x.prefix_cache, x.landing_failure,
           x.handover.incarnation, x.handover.lease, x.handover.idle_close, x.handover.stop_retry,
           x.landing_max);
  } else if constexpr (Same<T, RecordHead>) {
    FIELDS(a, x.config, x.fingerprint, x.layout, x.arena_blocks);
  } else if constexpr (Same<T, PassMark>) {
    FIELDS(a, x.interrupted_after, x.took);
  } else {
    mover_part(a, x);
  }
}

template <class A, class T>
void answer_part(A& a, T& x) {
  if constexpr (Same<T, PromptEvent>) {
    FIELDS(a, x.request, x.cached_tokens, x.remote, x.recomputed, x.prompt_logprobs);
  } else if constexpr (Same<T, TokensEvent>) {
    FIELDS(a, x.request, x.choice, x.tokens);
  } else if constexpr (Same<T, HeldEvent>) {
    FIELDS(a, x.request, x.handover, x.blocks, x.tokens, x.prompt_hash, x.first_tokens, x.lease);
  } else if constexpr (Same<T, ReservedEvent>) {
    FIELDS(a, x.request, x.transfer, x.blocks, x.tokens, x.tokens_present, x.prompt_hash);
  } else if constexpr (Same<T, FinishedEvent>) {
    FIELDS(a, x.request, x.output_tokens, x.timeline);
  } else if constexpr (Same<T, FailedEvent>) {
    FIELDS(a, x.request, x.error, x.timeline);
  } else if constexpr (Same<T, ReturnedEvent>) {
    FIELDS(a, x.request, x.timeline);
  } else {
    inbox_part(a, x);
  }
}

template <class A, class T>
void field(A& a, T& x) {
  using Plain = std::remove_const_t<T>;
  if (!a.ok()) return;
  if constexpr (requires { last_value(Plain{}); }) {
    enumeration(a, x);
  } else if constexpr (std::is_arithmetic_v<Plain> || std::is_enum_v<Plain>) {
    leaf(a, x);
  } else if constexpr (kIsId<Plain>) {
    a.bytes(x.bytes.data(), x.bytes.size());
  } else if constexpr (Same<T, Duration>) {
    int64_t count = x.count();
    a.bytes(&count, sizeof(count));
    if constexpr (A::kReads) x = Duration(count);
  } else if constexpr (Same<T, Time>) {
    field(a, x.since_start);
  } else if constexpr (Same<T, Error>) {
    error_field(a, x);
  } else if constexpr (Same<T, transfer::Message>) {
    message_field(a, x);
  } else if constexpr (kIsOptional<Plain>) {
    optional_field(a, x);
  } else if constexpr (kIsVector<Plain>) {
    sequence(a, x);
  } else if constexpr (kIsPair<Plain>) {
    FIELDS(a, x.first, x.second);
  } else if constexpr (kIsVariant<Plain>) {
    variant_field(a, x);
  } else {
    answer_part(a, x);
  }
}

}  // namespace baton::engine
