// What two instances say to each other on one connection, as plain values and as bytes
// (docs/transfer-protocol.md draws every frame). All integers are little-endian; durations travel, never
// moments. Reading is pure and trusts nothing: every length, count and enumerator is checked before use.
//
// P is the side that has the KV of a prompt, D the one that takes it. In the pull order D calls and P
// listens, in the layer-wise order P calls and D listens (Flow); what they say after the handshake is the
// same but for the first words: Renew and Landing there, Claim and Landing here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "kv/layout.h"

namespace baton::transfer {

inline constexpr uint32_t kProtocolVersion = 4;
inline constexpr size_t kFrameHeadBytes = 8;              // u32 body bytes, u8 kind, 3 zero bytes
inline constexpr size_t kBodyBytesMax = size_t{1} << 20;  // of every frame
inline constexpr size_t kKvBytesMax = 256 * 1024;    // KV bytes of one KvFrame: they stay in the L2 cache
inline constexpr size_t kTextBytesMax = 1024;        // of one string
inline constexpr uint32_t kBlocksMax = 64 * 1024;    // of one Landing or Announce
inline constexpr size_t kNoteBytesMax = 512 * 1024;  // of a PrefillDone
inline constexpr size_t kFabricBytesMax = 4096;      // of a fabric's address or key
inline constexpr Duration kDurationMax = std::chrono::hours(24 * 365);

// Layers [first, first + count) of every block.
struct LayerRange {
  uint32_t first = 0;
  uint32_t count = 0;
  bool operator==(const LayerRange&) const = default;
};

// Who speaks. Exchanged in the handshake; both sides compare it with their own.
struct Identity {
  uint32_t protocol = kProtocolVersion;
  std::string engine_id;
  Incarnation incarnation;
  std::string fingerprint;  // of the model, hex
  kv::KvLayout layout;
  uint32_t tp_size = 1;
  uint32_t dp_size = 1;
  std::string boot_id;  // /proc/sys/kernel/random/boot_id; equal on one host
  uint32_t max_model_len = 0;

  bool operator==(const Identity&) const = default;
};

// Empty if KV of `theirs` may be decoded from by `own`, else the first field that differs and both values:
// protocol, fingerprint, layers, kv_kind, kv_heads, head_dim, dtype, tp_size. block_size may differ but must
// be one that a layout can have (kv/layout.h). engine_id, boot_id, dp_size and max_model_len may differ (a
// request that is too long for one side is refused by that side).
std::string find_mismatch(const Identity& own, const Identity& theirs);

// Which end of a connection has the KV that moves on it.
enum class Flow : uint8_t {
  kToCaller,    // pull order: the caller is D
  kFromCaller,  // layer-wise order: the caller is P
};

// ---- handshake: caller Hello, listener Challenge, caller Proof, listener Welcome, caller Ready; or Refused
// and the end ----

using Nonce = std::array<uint8_t, 32>;
using Mac = std::array<uint8_t, 32>;

// How a peer's side of a fabric is reached (ucx/fabric.h), and D's arena there: P may write it with `key`.
struct FabricAddress {
  std::vector<std::byte> worker;  // UCX's own format; empty: no fabric
  uint64_t base = 0;
  uint64_t bytes = 0;
  std::vector<std::byte> key;  // empty: the arena is not to be written
  bool operator==(const FabricAddress&) const = default;
};

struct Hello {
  bool authenticates = false;  // has a cluster secret
  Flow flow = Flow::kToCaller;
  Nonce nonce{};
  Identity identity;
  bool operator==(const Hello&) const = default;
};
struct Challenge {
  bool authenticates = false;
  Nonce nonce{};
  Identity identity;
  Mac mac{};  // zero in the unauthenticated mode
  bool operator==(const Challenge&) const = default;
};
struct Proof {
  Mac mac{};
  bool operator==(const Proof&) const = default;
};
struct Welcome {
  std::string local_name;  // abstract Unix socket over which P's arena goes to D; empty: TCP only
  Nonce local_token{};     // to be shown there: the name is no secret on its host
  FabricAddress fabric;    // the listener's, if it would have KV travel so
  bool operator==(const Welcome&) const = default;
};
// How KV travels on this connection: local once D has mapped P's arena; with the caller's `fabric`, by that;
// else tcp.
struct Ready {
  bool local = false;
  FabricAddress fabric;
  bool operator==(const Ready&) const = default;
};
// Ends the connection; says why.
struct Refused {
  Error error;
  bool operator==(const Refused&) const = default;
};

// ---- hand-over, D to P ----

// D still wants what is held. Claims the hand-over for this connection.
struct Renew {
  HandoverId handover;
  bool operator==(const Renew&) const = default;
};
// D's permission to fill its blocks. `target` are D's blocks for the block positions
// [tokens_present / block_tokens, blocks_for(tokens_total)), block_tokens being D's.
struct Landing {
  TransferId transfer;
  HandoverId handover;
  Incarnation target_incarnation;  // of D
  std::vector<BlockId> target;
  uint32_t tokens_present = 0;  // D has these already: a multiple of D's block size
  uint32_t tokens_total = 0;
  std::string prompt_hash;
  Duration deadline{0};  // from its arrival on
  bool operator==(const Landing&) const = default;
};
// D has stored this many KV bytes of a transfer so far (tcp: opens P's window).
struct Ack {
  TransferId transfer;
  uint64_t bytes = 0;
  bool operator==(const Ack&) const = default;
};
// D has everything; P's blocks are free.
struct Taken {
  HandoverId handover;
  TransferId transfer;
  bool operator==(const Taken&) const = default;
};
// D gives up; P's blocks are free.
struct ReleaseHandover {
  HandoverId handover;
  std::string reason;
  bool operator==(const ReleaseHandover&) const = default;
};

// ---- hand-over, P to D ----

// Layer-wise order: P has been asked to fill this transfer, under this name. D answers with its Landing, or
// with ReleaseHandover if it expects nobody (any longer).
struct Claim {
  TransferId transfer;
  HandoverId handover;
  bool operator==(const Claim&) const = default;
};
// Answer to Renew: how long P now waits for the next one.
struct Renewed {
  HandoverId handover;
  Duration lease{0};
  bool operator==(const Renewed&) const = default;
};
// These layers of positions [first, end) are ready, in the blocks that hold them. Within [tokens_present,
// tokens_total) of the Landing a transfer's announces go chunk by chunk in order of position, and within a
// chunk in order of layers: each begins where the one before it ended. A chunk ends where a block of D ends,
// or with the prompt.
struct Announce {
  TransferId transfer;
  LayerRange layers;
  uint32_t first = 0;
  uint32_t end = 0;              // of the last chunk as kv::move_of has it
  std::vector<BlockId> source;   // P's, in P's block size
  std::vector<uint32_t> epochs;  // [source]
  bool last = false;             // nothing follows
  bool operator==(const Announce&) const = default;
};
// The KV bytes of an Announce have all been sent, and its blocks were P's own until then (tcp).
struct Pushed {
  TransferId transfer;
  LayerRange layers;
  bool last = false;
  bool operator==(const Pushed&) const = default;
};
// P refuses or stops this transfer.
struct AbortTransfer {
  TransferId transfer;
  Error error;
  bool operator==(const AbortTransfer&) const = default;
};
// P does not hold this (any longer): unknown, expired, taken by another.
struct HandoverEnded {
  HandoverId handover;
  Error error;
  bool operator==(const HandoverEnded&) const = default;
};

// Layer-wise order: the prompt is computed and everything announced. `note` is what P's engine tells D's: the
// first tokens. Together with the last layer it ends the transfer.
struct PrefillDone {
  TransferId transfer;
  std::vector<std::byte> note;  // at most kNoteBytesMax
  bool operator==(const PrefillDone&) const = default;
};

// ---- one-sided writes: the end of a transfer that did not land ----

// D to P: write nothing more into this transfer's blocks, and say when nothing is under way.
struct Withdraw {
  TransferId transfer;
  bool operator==(const Withdraw&) const = default;
};
struct Withdrawn {
  TransferId transfer;
  bool operator==(const Withdrawn&) const = default;
};

// ---- either way ----

struct Ping {
  bool operator==(const Ping&) const = default;
};

using Message = std::variant<Hello, Challenge, Proof, Welcome, Refused, Renew, Landing, Ack, Taken,
                             ReleaseHandover, Renewed, Announce, Pushed, AbortTransfer, HandoverEnded, Ping,
                             Ready, Claim, PrefillDone, Withdraw, Withdrawn>;

// Head of a frame whose `bytes` of KV follow: bytes [offset, offset + bytes) of a piece of the Announce whose
// turn it is, in piece order (kv/pieces.h), all layers counted through. With equal block sizes a piece is a
// block.
struct KvFrame {
  TransferId transfer;
  uint32_t position = 0;  // of the piece, from 0 in each Announce
  uint32_t offset = 0;
  uint32_t bytes = 0;     // 1 to kKvBytesMax
  uint32_t epoch = 0;     // of P's block
  uint64_t checksum = 0;  // xxh3-64 of the KV bytes
  bool operator==(const KvFrame&) const = default;
};
inline constexpr size_t kKvHeadBytes = 16 + 4 * 4 + 8;  // of the body, before the KV bytes

enum class FrameKind : uint8_t {
  kHello = 1,
  kChallenge = 2,
  kProof = 3,
  kWelcome = 4,
  kRefused = 5,
  kRenew = 6,
  kLanding = 7,
  kAck = 8,
  kTaken = 9,
  kReleaseHandover = 10,
  kRenewed = 11,
  kAnnounce = 12,
  kPushed = 13,
  kAbortTransfer = 14,
  kHandoverEnded = 15,
  kPing = 16,
  kReady = 17,
  kClaim = 18,
  kPrefillDone = 19,
  kWithdraw = 20,
  kWithdrawn = 21,
  kKvFrame = 22,
};

struct FrameHead {
  uint32_t body_bytes = 0;
  FrameKind kind = FrameKind::kPing;
  bool operator==(const FrameHead&) const = default;
};

// kCorrupt: an unknown kind, a body beyond kBodyBytesMax (a KvFrame: beyond its own limit), reserved bytes
// set.
Result<FrameHead> parse_head(std::span<const std::byte, kFrameHeadBytes> bytes);

// The body of a frame of any kind but kKvFrame. kCorrupt names the message and field.
Result<Message> parse_body(FrameKind kind, std::span<const std::byte> body);

// The first kKvHeadBytes of a KvFrame's body. kCorrupt unless `bytes` fits `body_bytes` and the limits.
Result<KvFrame> parse_kv_head(uint32_t body_bytes, std::span<const std::byte, kKvHeadBytes> bytes);

// Frame head and body. Strings beyond kTextBytesMax are cut; lists beyond kBlocksMax are a bug.
std::vector<std::byte> encode(const Message& message);
// Frame head and the body's first kKvHeadBytes.
std::array<std::byte, kFrameHeadBytes + kKvHeadBytes> encode(const KvFrame& frame);

// What both MACs are taken over (net/peer_auth.h): everything both sides said so far.
std::vector<std::byte> handshake_transcript(const Hello& hello, const Challenge& challenge);

// "Landing", "Renew", ...
const char* message_name(const Message& message);

}  // namespace baton::transfer
