#include "transfer/messages.h"

#include <algorithm>

#include "base/check.h"
#include "transfer/wire.h"

namespace baton::transfer {
namespace {

constexpr size_t kCodes = 9;

void write(Writer& out, const Error& error) {
  out.number(static_cast<uint8_t>(error.code));
  out.text(error.message, kTextBytesMax);
}
void read(Reader& in, Error& error) {
  const auto code = in.number<uint8_t>("error.code");
  if (code >= kCodes) in.wrong("error.code", fmt::format("{}", code), "a known code");
  error.code = static_cast<Code>(code);
  error.message = in.text("error.message", kTextBytesMax);
}

void write(Writer& out, Duration duration) { out.number(static_cast<uint64_t>(duration.count())); }
Duration read_duration(Reader& in, std::string_view field) {
  const auto ns = in.number<uint64_t>(field);
  const auto most = static_cast<uint64_t>(kDurationMax.count());
  if (ns > most) in.wrong(field, fmt::format("{} ns", ns), fmt::format("at most {}", most));
  return Duration(std::min(ns, most));
}

void write(Writer& out, LayerRange layers) {
  out.number(layers.first);
  out.number(layers.count);
}
void read(Reader& in, LayerRange& layers) {
  layers.first = in.number<uint32_t>("layers.first");
  layers.count = in.number<uint32_t>("layers.count");
}

void write(Writer& out, const std::vector<BlockId>& blocks) {
  CHECK(blocks.size() <= kBlocksMax, "{} blocks", blocks.size());
  out.number(static_cast<uint32_t>(blocks.size()));
  for (const BlockId block : blocks) out.number(index(block));
}
void read(Reader& in, std::vector<BlockId>& blocks, std::string_view field) {
  blocks.resize(in.count(field, 4, kBlocksMax));
  for (BlockId& block : blocks) block = BlockId{in.number<uint32_t>(field)};
}

void write(Writer& out, const Identity& identity) {
  out.number(identity.protocol);
  out.text(identity.engine_id, kTextBytesMax);
  out.raw(identity.incarnation.bytes);
  out.text(identity.fingerprint, kTextBytesMax);
  out.number(identity.layout.layers);
  out.number(static_cast<uint8_t>(identity.layout.kind));
  out.number(identity.layout.kv_heads);
  out.number(identity.layout.head_dim);
  out.number(identity.layout.block_tokens);
  out.number(static_cast<uint8_t>(identity.layout.dtype));
  out.number(identity.tp_size);
  out.number(identity.dp_size);
  out.text(identity.boot_id, kTextBytesMax);
  out.number(identity.max_model_len);
}
void read(Reader& in, Identity& identity) {
  identity.protocol = in.number<uint32_t>("protocol");
  identity.engine_id = in.text("engine_id", kTextBytesMax);
  in.raw(identity.incarnation.bytes, "incarnation");
  identity.fingerprint = in.text("fingerprint", kTextBytesMax);
  identity.layout.layers = in.number<uint32_t>("layers");
  const auto kind = in.number<uint8_t>("kv_kind");
  if (kind > static_cast<uint8_t>(kv::KvKind::kLatent))
    in.wrong("kv_kind", fmt::format("{}", kind), "0 or 1");
  identity.layout.kind = static_cast<kv::KvKind>(kind);
  identity.layout.kv_heads = in.number<uint32_t>("kv_heads");
  identity.layout.head_dim = in.number<uint32_t>("head_dim");
  identity.layout.block_tokens = in.number<uint32_t>("block_size");
  const auto dtype = in.number<uint8_t>("dtype");
  if (dtype > static_cast<uint8_t>(DType::kF8E4M3))
    in.wrong("dtype", fmt::format("{}", dtype), "a known dtype");
  identity.layout.dtype = static_cast<DType>(dtype);
  identity.tp_size = in.number<uint32_t>("tp_size");
  identity.dp_size = in.number<uint32_t>("dp_size");
  identity.boot_id = in.text("boot_id", kTextBytesMax);
  identity.max_model_len = in.number<uint32_t>("max_model_len");
}

void write(Writer& out, const std::vector<std::byte>& bytes, size_t bytes_max) {
  CHECK(bytes.size() <= bytes_max, "{} bytes", bytes.size());
  out.number(static_cast<uint32_t>(bytes.size()));
  out.bytes(bytes);
}
void read(Reader& in, std::vector<std::byte>& bytes, std::string_view field, size_t bytes_max) {
  bytes.resize(in.count(field, 1, bytes_max));
  in.bytes(bytes, field);
}

void write(Writer& out, const FabricAddress& fabric) {
  write(out, fabric.worker, kFabricBytesMax);
  out.number(fabric.base);
  out.number(fabric.bytes);
  write(out, fabric.key, kFabricBytesMax);
}
void read(Reader& in, FabricAddress& fabric) {
  read(in, fabric.worker, "fabric.worker", kFabricBytesMax);
  fabric.base = in.number<uint64_t>("fabric.base");
  fabric.bytes = in.number<uint64_t>("fabric.bytes");
  read(in, fabric.key, "fabric.key", kFabricBytesMax);
  const uint64_t room = UINT64_MAX - fabric.base;
  if (fabric.bytes > room)
    in.wrong("fabric.bytes", fmt::format("{}", fabric.bytes), fmt::format("at most {}", room));
}

// One pair of functions per message, in the order of docs/transfer-protocol.md.
void write(Writer& out, const Hello& m) {
  out.number(static_cast<uint8_t>(m.authenticates));
  out.number(static_cast<uint8_t>(m.flow == Flow::kFromCaller));
  out.raw(m.nonce);
  write(out, m.identity);
}
void read(Reader& in, Hello& m) {
  m.authenticates = in.flag("authenticates");
  m.flow = in.flag("flow") ? Flow::kFromCaller : Flow::kToCaller;
  in.raw(m.nonce, "nonce");
  read(in, m.identity);
}
void write(Writer& out, const Challenge& m) {
  out.number(static_cast<uint8_t>(m.authenticates));
  out.raw(m.nonce);
  write(out, m.identity);
  out.raw(m.mac);
}
void read(Reader& in, Challenge& m) {
  m.authenticates = in.flag("authenticates");
  in.raw(m.nonce, "nonce");
  read(in, m.identity);
  in.raw(m.mac, "mac");
}
void write(Writer& out, const Proof& m) { out.raw(m.mac); }
void read(Reader& in, Proof& m) { in.raw(m.mac, "mac"); }
void write(Writer& out, const Welcome& m) {
  out.text(m.local_name, kTextBytesMax);
  out.raw(m.local_token);
  write(out, m.fabric);
}
void read(Reader& in, Welcome& m) {
  m.local_name = in.text("local_name", kTextBytesMax);
  in.raw(m.local_token, "local_token");
  read(in, m.fabric);
}
void write(Writer& out, const Ready& m) {
  out.number(static_cast<uint8_t>(m.local));
  write(out, m.fabric);
}
void read(Reader& in, Ready& m) {
  m.local = in.flag("local");
  read(in, m.fabric);
}
void write(Writer& out, const Refused& m) { write(out, m.error); }
void read(Reader& in, Refused& m) { read(in, m.error); }
void write(Writer& out, const Renew& m) { out.raw(m.handover.bytes); }
void read(Reader& in, Renew& m) { in.raw(m.handover.bytes, "handover"); }
void write(Writer& out, const Landing& m) {
  out.raw(m.transfer.bytes);
  out.raw(m.handover.bytes);
  out.raw(m.target_incarnation.bytes);
  write(out, m.target);
  out.number(m.tokens_present);
  out.number(m.tokens_total);
  out.text(m.prompt_hash, kTextBytesMax);
  write(out, m.deadline);
}
void read(Reader& in, Landing& m) {
  in.raw(m.transfer.bytes, "transfer");
  in.raw(m.handover.bytes, "handover");
  in.raw(m.target_incarnation.bytes, "target_incarnation");
  read(in, m.target, "target");
  m.tokens_present = in.number<uint32_t>("tokens_present");
  m.tokens_total = in.number<uint32_t>("tokens_total");
  if (m.tokens_present > m.tokens_total) {
    in.wrong("tokens_present", fmt::format("{}", m.tokens_present),
             fmt::format("at most {}", m.tokens_total));
  }
  m.prompt_hash = in.text("prompt_hash", kTextBytesMax);
  m.deadline = read_duration(in, "deadline");
}
void write(Writer& out, const Ack& m) {
  out.raw(m.transfer.bytes);
  out.number(m.bytes);
}
void read(Reader& in, Ack& m) {
  in.raw(m.transfer.bytes, "transfer");
  m.bytes = in.number<uint64_t>("bytes");
}
void write(Writer& out, const Taken& m) {
  out.raw(m.handover.bytes);
  out.raw(m.transfer.bytes);
}
void read(Reader& in, Taken& m) {
  in.raw(m.handover.bytes, "handover");
  in.raw(m.transfer.bytes, "transfer");
}
void write(Writer& out, const ReleaseHandover& m) {
  out.raw(m.handover.bytes);
  out.text(m.reason, kTextBytesMax);
}
void read(Reader& in, ReleaseHandover& m) {
  in.raw(m.handover.bytes, "handover");
  m.reason = in.text("reason", kTextBytesMax);
}
void write(Writer& out, const Renewed& m) {
  out.raw(m.handover.bytes);
  write(out, m.lease);
}
void read(Reader& in, Renewed& m) {
  in.raw(m.handover.bytes, "handover");
  m.lease = read_duration(in, "lease");
}
void write(Writer& out, const Announce& m) {
  CHECK(m.epochs.size() == m.source.size());
  out.raw(m.transfer.bytes);
  write(out, m.layers);
  out.number(m.first);
  out.number(m.end);
  write(out, m.source);
  for (const uint32_t epoch : m.epochs) out.number(epoch);
  out.number(static_cast<uint8_t>(m.last));
}
void read(Reader& in, Announce& m) {
  in.raw(m.transfer.bytes, "transfer");
  read(in, m.layers);
  m.first = in.number<uint32_t>("first");
  m.end = in.number<uint32_t>("end");
  if (m.end <= m.first) in.wrong("end", fmt::format("{}", m.end), fmt::format("above {}", m.first));
  read(in, m.source, "source");
  m.epochs.resize(m.source.size());
  for (uint32_t& epoch : m.epochs) epoch = in.number<uint32_t>("epochs");
  m.last = in.flag("last");
}
void write(Writer& out, const Pushed& m) {
  out.raw(m.transfer.bytes);
  write(out, m.layers);
  out.number(static_cast<uint8_t>(m.last));
}
void read(Reader& in, Pushed& m) {
  in.raw(m.transfer.bytes, "transfer");
  read(in, m.layers);
  m.last = in.flag("last");
}
void write(Writer& out, const AbortTransfer& m) {
  out.raw(m.transfer.bytes);
  write(out, m.error);
}
void read(Reader& in, AbortTransfer& m) {
  in.raw(m.transfer.bytes, "transfer");
  read(in, m.error);
}
void write(Writer& out, const HandoverEnded& m) {
  out.raw(m.handover.bytes);
  write(out, m.error);
}
void read(Reader& in, HandoverEnded& m) {
  in.raw(m.handover.bytes, "handover");
  read(in, m.error);
}
void write(Writer& /*out*/, const Ping& /*m*/) {}
void read(Reader& /*in*/, Ping& /*m*/) {}
void write(Writer& out, const Claim& m) {
  out.raw(m.transfer.bytes);
  out.raw(m.handover.bytes);
}
void read(Reader& in, Claim& m) {
  in.raw(m.transfer.bytes, "transfer");
  in.raw(m.handover.bytes, "handover");
}
void write(Writer& out, const PrefillDone& m) {
  out.raw(m.transfer.bytes);
  write(out, m.note, kNoteBytesMax);
}
void read(Reader& in, PrefillDone& m) {
  in.raw(m.transfer.bytes, "transfer");
  read(in, m.note, "note", kNoteBytesMax);
}
void write(Writer& out, const Withdraw& m) { out.raw(m.transfer.bytes); }
void read(Reader& in, Withdraw& m) { in.raw(m.transfer.bytes, "transfer"); }
void write(Writer& out, const Withdrawn& m) { out.raw(m.transfer.bytes); }
void read(Reader& in, Withdrawn& m) { in.raw(m.transfer.bytes, "transfer"); }

constexpr std::array<const char*, std::variant_size_v<Message>> kNames = {
    "Hello",         "Challenge", "Proof",           "Welcome", "Refused",     "Renew",    "Landing",
    "Ack",           "Taken",     "ReleaseHandover", "Renewed", "Announce",    "Pushed",   "AbortTransfer",
    "HandoverEnded", "Ping",      "Ready",           "Claim",   "PrefillDone", "Withdraw", "Withdrawn"};

// The alternatives of Message stand in the order of FrameKind, which begins at 1.
static_assert(static_cast<size_t>(FrameKind::kWithdrawn) == std::variant_size_v<Message>);

template <size_t kAt = 0>
Message empty_message(size_t at) {
  if constexpr (kAt + 1 < std::variant_size_v<Message>) {
    if (at != kAt) return empty_message<kAt + 1>(at);
  }
  return Message(std::in_place_index<kAt>);
}

}  // namespace

const char* message_name(const Message& message) { return kNames[message.index()]; }

std::string find_mismatch(const Identity& own, const Identity& theirs) {
  const auto differ = [](std::string_view field, const auto& mine, const auto& other) {
    return mine == other ? std::string() : fmt::format("{}: peer has {}, expected {}", field, other, mine);
  };
  const kv::KvLayout& a = own.layout;
  const kv::KvLayout& b = theirs.layout;
  for (std::string found :
       {differ("protocol", own.protocol, theirs.protocol),
        differ("fingerprint", own.fingerprint, theirs.fingerprint), differ("layers", a.layers, b.layers),
        differ("kv_kind", kv::kv_kind_name(a.kind), kv::kv_kind_name(b.kind)),
        differ("kv_heads", a.kv_heads, b.kv_heads), differ("head_dim", a.head_dim, b.head_dim),
        differ("dtype", dtype_name(a.dtype), dtype_name(b.dtype)),
        differ("tp_size", own.tp_size, theirs.tp_size)}) {
    if (!found.empty()) return found;
  }
  if (const auto sound = kv::validate(b); !sound) return sound.error().message;
  return {};
}

Result<FrameHead> parse_head(std::span<const std::byte, kFrameHeadBytes> bytes) {
  Reader in("frame head", bytes);
  const auto body = in.number<uint32_t>("body_bytes");
  const auto kind = in.number<uint8_t>("kind");
  if (kind < 1 || kind > static_cast<uint8_t>(FrameKind::kKvFrame)) {
    in.wrong("kind", fmt::format("{}", kind), fmt::format("1 to {}", static_cast<int>(FrameKind::kKvFrame)));
  }
  for (int i = 0; i < 3; ++i) {
    const auto reserved = in.number<uint8_t>("reserved");
    if (reserved != 0) in.wrong("reserved", fmt::format("{}", reserved), "0");
  }
  const bool is_kv = kind == static_cast<uint8_t>(FrameKind::kKvFrame);
  const size_t most = is_kv ? kKvHeadBytes + kKvBytesMax : kBodyBytesMax;
  const size_t least = is_kv ? kKvHeadBytes + 1 : 0;
  if (body > most || body < least) {
    in.wrong("body_bytes", fmt::format("{}", body), fmt::format("{} to {}", least, most));
  }
  TRY_DO(in.finish());
  return FrameHead{body, static_cast<FrameKind>(kind)};
}

Result<Message> parse_body(FrameKind kind, std::span<const std::byte> body) {
  const size_t at = static_cast<size_t>(kind) - 1;
  CHECK(at < std::variant_size_v<Message>, "kind {}", static_cast<int>(kind));
  Message message = empty_message(at);
  Reader in(kNames[at], body);
  std::visit([&](auto& fields) { read(in, fields); }, message);
  TRY_DO(in.finish());
  return message;
}

Result<KvFrame> parse_kv_head(uint32_t body_bytes, std::span<const std::byte, kKvHeadBytes> bytes) {
  Reader in("KvFrame", bytes);
  KvFrame frame;
  in.raw(frame.transfer.bytes, "transfer");
  frame.position = in.number<uint32_t>("position");
  frame.offset = in.number<uint32_t>("offset");
  frame.bytes = in.number<uint32_t>("bytes");
  frame.epoch = in.number<uint32_t>("epoch");
  frame.checksum = in.number<uint64_t>("checksum");
  if (frame.bytes == 0 || frame.bytes > kKvBytesMax || body_bytes != kKvHeadBytes + frame.bytes) {
    in.wrong("bytes", fmt::format("{} in a body of {}", frame.bytes, body_bytes),
             fmt::format("1 to {} that fill the body", kKvBytesMax));
  }
  TRY_DO(in.finish());
  return frame;
}

std::vector<std::byte> encode(const Message& message) {
  Writer out;
  out.number(uint32_t{0});
  out.number(static_cast<uint8_t>(message.index() + 1));
  for (int i = 0; i < 3; ++i) out.number(uint8_t{0});
  std::visit([&](const auto& fields) { write(out, fields); }, message);
  CHECK(out.size() - kFrameHeadBytes <= kBodyBytesMax, "{} of {} bytes", message_name(message), out.size());
  out.set_u32(0, static_cast<uint32_t>(out.size() - kFrameHeadBytes));
  return out.take();
}

std::array<std::byte, kFrameHeadBytes + kKvHeadBytes> encode(const KvFrame& frame) {
  Writer out;
  out.number(static_cast<uint32_t>(kKvHeadBytes + frame.bytes));
  out.number(static_cast<uint8_t>(FrameKind::kKvFrame));
  for (int i = 0; i < 3; ++i) out.number(uint8_t{0});
  out.raw(frame.transfer.bytes);
  out.number(frame.position);
  out.number(frame.offset);
  out.number(frame.bytes);
  out.number(frame.epoch);
  out.number(frame.checksum);
  std::array<std::byte, kFrameHeadBytes + kKvHeadBytes> head{};
  const std::vector<std::byte> bytes = out.take();
  CHECK(bytes.size() == head.size());
  std::ranges::copy(bytes, head.begin());
  return head;
}

std::vector<std::byte> handshake_transcript(const Hello& hello, const Challenge& challenge) {
  std::vector<std::byte> bytes = encode(Message(hello));
  Challenge without_mac = challenge;
  without_mac.mac = {};
  const std::vector<std::byte> second = encode(Message(without_mac));
  bytes.insert(bytes.end(), second.begin(), second.end());
  return bytes;
}

}  // namespace baton::transfer
