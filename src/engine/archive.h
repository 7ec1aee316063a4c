// Values of the engine's mailbox as bytes: one list of fields per type, read and written by the same code.
// Little-endian; lists and strings begin with a u32 count; optionals and variants with a u8. Reading trusts
// nothing: it ends in ok() == false, never beyond the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "engine/engine.h"
#include "transfer/messages.h"

namespace baton::engine {

class Writer {
 public:
  static constexpr bool kReads = false;
  explicit Writer(std::vector<std::byte>& out) : out_(out) {}
  void bytes(const void* data, size_t count) {
    const auto* from = static_cast<const std::byte*>(data);
    out_.insert(out_.end(), from, from + count);
  }
  bool ok() const { return true; }
  void fail() {}

 private:
  std::vector<std::byte>& out_;
};

class Reader {
 public:
  static constexpr bool kReads = true;
  explicit Reader(std::span<const std::byte> in) : in_(in) {}
  void bytes(void* data, size_t count) {
    if (count > in_.size()) return fail();
    if (count != 0) std::memcpy(data, in_.data(), count);
    in_ = in_.subspan(count);
  }
  std::span<const std::byte> take(size_t count) {
    if (count > in_.size()) {
      fail();
      return {};
    }
    const auto taken = in_.first(count);
    in_ = in_.subspan(count);
    return taken;
  }
  size_t left() const { return in_.size(); }
  bool ok() const { return ok_; }
  void fail() {
    ok_ = false;
    in_ = {};
  }

 private:
  std::span<const std::byte> in_;
  bool ok_ = true;
};

// ---- leaves and containers ----

template <class A, class T>
void field(A& a, T& x);

// Enumerations whose last value is `last`.
template <class A, class T>
void enumeration(A& a, T& x, std::remove_const_t<T> last) {
  using Raw = std::underlying_type_t<std::remove_const_t<T>>;
  Raw raw = A::kReads ? Raw{} : static_cast<Raw>(x);
  a.bytes(&raw, sizeof(raw));
  if (raw < 0 || raw > std::to_underlying(last)) return a.fail();
  if constexpr (A::kReads) x = static_cast<T>(raw);
}
template <class A, class T>
void sequence(A& a, T& x) {
  auto count = static_cast<uint32_t>(x.size());
  a.bytes(&count, sizeof(count));
  if constexpr (A::kReads) {
    // Each element takes at least a byte, so a lying count cannot ask for much memory.
    if (!a.ok() || count > a.left()) return a.fail();
    x.resize(count);
  }
  using Element = std::remove_const_t<typename std::remove_const_t<T>::value_type>;
  if constexpr (std::is_arithmetic_v<Element>) {
    if constexpr (A::kReads) {
      if (count > a.left() / sizeof(Element)) return a.fail();
    }
    a.bytes(x.data(), count * sizeof(Element));
  } else {
    for (auto& element : x) {
      if (!a.ok()) return;
      field(a, element);
    }
  }
}

template <class A, class T>
void leaf(A& a, T& x) {
  if constexpr (std::is_same_v<std::remove_const_t<T>, bool>) {
    uint8_t byte = A::kReads ? 0 : static_cast<uint8_t>(x);
    a.bytes(&byte, 1);
    if (byte > 1) a.fail();
    if constexpr (A::kReads) x = byte == 1;
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
    if (!a.ok() || !emplace_alternative(x, which)) return a.fail();
  }
  std::visit([&](auto& one) { field(a, one); }, x);
}

// ---- structs ----

template <class A, class... T>
void fields(A& a, T&... x) {
  (field(a, x), ...);
}

template <class T, class U>
concept Same = std::is_same_v<std::remove_const_t<T>, U>;

template <class A, class T>
void error_field(A& a, T& x) {
  enumeration(a, x.code, Code::kDenied);
  fields(a, x.message, x.param);
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
    const auto bytes = a.take(count);
    if (bytes.size() < transfer::kFrameHeadBytes) return a.fail();
    const auto head = transfer::parse_head(bytes.template first<transfer::kFrameHeadBytes>());
    if (!head || head->body_bytes != bytes.size() - transfer::kFrameHeadBytes) return a.fail();
    auto message = transfer::parse_body(head->kind, bytes.subspan(transfer::kFrameHeadBytes));
    if (!message) return a.fail();
    x = std::move(*message);
  }
}

template <class A, class T>
void request_part(A& a, T& x) {
  if constexpr (Same<T, SamplingParams>) {
    fields(a, x.temperature, x.top_p, x.top_k, x.min_p, x.repetition_penalty, x.presence_penalty,
           x.frequency_penalty, x.logit_bias, x.allowed_token_ids, x.seed, x.n, x.max_tokens, x.min_tokens,
           x.eos_token_ids, x.stop_token_ids, x.ignore_eos, x.logprobs, x.prompt_logprobs);
  } else if constexpr (Same<T, TokenLogprob>) {
    fields(a, x.token, x.logprob, x.rank);
  } else if constexpr (Same<T, PositionLogprobs>) {
    fields(a, x.self, x.top);
  } else if constexpr (Same<T, DrawnToken>) {
    fields(a, x.token, x.logprobs, x.finish, x.stop_token);
  } else if constexpr (Same<T, FirstTokens>) {
    fields(a, x.choices, x.digest);
  } else if constexpr (Same<T, RemotePrefill>) {
    fields(a, x.host, x.port, x.engine_id, x.incarnation, x.handover, x.tokens, x.prompt_hash,
           x.first_tokens);
  } else if constexpr (Same<T, Request>) {
    fields(a, x.id, x.external_id, x.prompt, x.sampling, x.priority, x.cache_salt, x.deadline, x.hold,
           x.remote, x.transfer);
  } else if constexpr (Same<T, RequestTimings>) {
    fields(a, x.queue, x.prefill, x.handover, x.decode);
  } else {
    static_assert(!sizeof(T), "no field list");
  }
}

template <class A, class T>
void mover_part(A& a, T& x) {
  if constexpr (Same<T, transfer::PeerUp>) {
    fields(a, x.peer, x.identity);
    enumeration(a, x.transport, transfer::Transport::kFake);
    fields(a, x.authenticated);
  } else if constexpr (Same<T, transfer::PeerLost>) {
    fields(a, x.peer, x.error);
  } else if constexpr (Same<T, transfer::Received>) {
    fields(a, x.peer, x.message);
  } else if constexpr (Same<T, transfer::Landed>) {
    fields(a, x.transfer, x.bytes);
  } else if constexpr (Same<T, transfer::PushProgress>) {
    fields(a, x.peer, x.transfer, x.bytes);
  } else if constexpr (Same<T, transfer::MoveFailed>) {
    fields(a, x.transfer, x.error);
  } else if constexpr (Same<T, transfer::StoresStopped>) {
    fields(a, x.transfer);
  } else if constexpr (Same<T, transfer::Identity>) {
    fields(a, x.protocol, x.engine_id, x.incarnation, x.fingerprint, x.layout, x.tp_size, x.dp_size,
           x.boot_id, x.max_model_len);
  } else if constexpr (Same<T, kv::KvLayout>) {
    fields(a, x.layers, x.kv_heads, x.head_dim, x.block_tokens);
    enumeration(a, x.dtype, DType::kF8E4M3);
  } else {
    request_part(a, x);
  }
}

template <class A, class T>
void inbox_part(A& a, T& x) {
  if constexpr (Same<T, Submit>) {
    fields(a, x.request);
  } else if constexpr (Same<T, Abort>) {
    fields(a, x.request, x.reason);
  } else if constexpr (Same<T, StopChoice>) {
    fields(a, x.request, x.choice);
  } else if constexpr (Same<T, ReleaseHeld>) {
    fields(a, x.handover, x.reason);
  } else if constexpr (Same<T, ResetPrefixCache> || Same<T, Drain>) {
  } else if constexpr (Same<T, ScheduleLimits>) {
    fields(a, x.seqs_max, x.batch_tokens_max, x.step_max);
    enumeration(a, x.policy, SchedulingPolicy::kPriority);
  } else if constexpr (Same<T, EngineConfig>) {
    fields(a, x.limits, x.waiting_max, x.model_tokens_max, x.prefix_cache);
    enumeration(a, x.landing_failure, LandingFailure::kFail);
    fields(a, x.handover.incarnation, x.handover.lease, x.handover.idle_close, x.handover.stop_retry,
           x.landing_max);
  } else if constexpr (Same<T, PassMark>) {
    fields(a, x.interrupted_after, x.took);
  } else {
    mover_part(a, x);
  }
}

template <class A, class T>
void answer_part(A& a, T& x) {
  if constexpr (Same<T, PromptEvent>) {
    fields(a, x.request, x.cached_tokens, x.remote, x.recomputed, x.prompt_logprobs);
  } else if constexpr (Same<T, TokensEvent>) {
    fields(a, x.request, x.choice, x.tokens);
  } else if constexpr (Same<T, HeldEvent>) {
    fields(a, x.request, x.handover, x.blocks, x.tokens, x.prompt_hash, x.first_tokens, x.lease);
  } else if constexpr (Same<T, FinishedEvent>) {
    fields(a, x.request, x.output_tokens, x.timings);
  } else if constexpr (Same<T, FailedEvent>) {
    fields(a, x.request, x.error);
  } else {
    inbox_part(a, x);
  }
}

template <class A, class T>
void field(A& a, T& x) {
  using Plain = std::remove_const_t<T>;
  if (!a.ok()) return;
  if constexpr (Same<T, FinishReason>) {
    enumeration(a, x, FinishReason::kError);
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
    fields(a, x.first, x.second);
  } else if constexpr (kIsVariant<Plain>) {
    variant_field(a, x);
  } else {
    answer_part(a, x);
  }
}

}  // namespace baton::engine
