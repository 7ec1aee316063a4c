#include "transfer/ucx/fabric.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "transfer/ucx/library.h"

namespace baton::transfer::ucx {
namespace {

constexpr int kProgressAtOnce = 256;    // then the connections have their turn
constexpr int kCloseTurnsMax = 100000;  // of progress, until a closed endpoint is gone
constexpr unsigned kActiveMessage = 1;  // the one id in use

Failure ucx_failure(const Library& ucx, const char* what, ucs_status_t status) {
  return fail(Code::kUnavailable, fmt::format("UCX: {}: {}", what, ucx.status_string(status)));
}

}  // namespace

bool has_active_device(const std::filesystem::path& root) {
  std::error_code error;
  for (const auto& device : std::filesystem::directory_iterator(root, error)) {
    for (const auto& port : std::filesystem::directory_iterator(device.path() / "ports", error)) {
      std::ifstream file(port.path() / "state");  // "4: ACTIVE"
      std::string state;
      std::getline(file, state);
      if (state.find("ACTIVE") != std::string::npos) return true;
    }
  }
  return false;
}

std::string choose_transports(bool has_device) { return has_device ? "rc" : "posix,sysv,tcp"; }

bool needs_messages(const std::string& transports) {
  static constexpr std::string_view kWritten[] = {"rc",    "rc_x",    "rc_v", "rc_mlx5", "rc_verbs",
                                                  "dc",    "dc_mlx5", "ib",   "sm",      "shm",
                                                  "posix", "sysv",    "self", "cma"};
  std::istringstream names(transports);
  for (std::string name; std::getline(names, name, ',');) {
    if (std::ranges::find(kWritten, name) == std::end(kWritten)) return true;
  }
  return false;
}

Result<std::unique_ptr<Fabric>> Fabric::create(kv::KvArena& arena, const std::string& transports) {
  TRY(const Library* ucx, load_library());
  std::unique_ptr<Fabric> fabric(new Fabric(*ucx, arena));
  ucp_config_t* config = nullptr;
  if (const auto status = ucx->config_read(nullptr, nullptr, &config); status != UCS_OK)
    return ucx_failure(*ucx, "config", status);
  ucs_status_t status = ucx->config_modify(config, "TLS", transports.c_str());
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  fabric->sends_messages_ = needs_messages(transports);
  params.features = UCP_FEATURE_RMA | UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  if (status == UCS_OK)
    status = ucx->init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &fabric->context_);
  ucx->config_release(config);
  if (status != UCS_OK) return ucx_failure(*ucx, transports.c_str(), status);
  ucp_mem_map_params_t memory{};
  memory.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  memory.address = arena.data();
  memory.length = fabric->bytes();
  status = ucx->mem_map(fabric->context_, &memory, &fabric->memory_);
  if (status != UCS_OK) return ucx_failure(*ucx, "registering the KV arena (ulimit -l?)", status);
  void* key = nullptr;
  size_t key_bytes = 0;
  status = ucx->rkey_pack(fabric->context_, fabric->memory_, &key, &key_bytes);
  if (status != UCS_OK) return ucx_failure(*ucx, "key of the KV arena", status);
  const auto* const first = static_cast<const std::byte*>(key);
  fabric->key_.assign(first, first + key_bytes);
  ucx->rkey_buffer_release(key);
  if (key_bytes == 0 || key_bytes > kFabricBytesMax)
    return fail(Code::kUnavailable,
                fmt::format("UCX: a key of {} bytes, expected 1 to {}", key_bytes, kFabricBytesMax));
  return fabric;
}

Fabric::~Fabric() {
  if (memory_ != nullptr) ucx_.mem_unmap(context_, memory_);
  if (context_ != nullptr) ucx_.cleanup(context_);
}

Result<std::unique_ptr<FabricPeer>> Fabric::open_peer() {
  std::unique_ptr<FabricPeer> peer(new FabricPeer(*this));
  TRY_DO(peer->open());
  return peer;
}

Result<void> FabricPeer::open() {
  const Library& ucx = fabric_.ucx_;
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  if (const auto status = ucx.worker_create(fabric_.context_, &params, &worker_); status != UCS_OK)
    return ucx_failure(ucx, "worker", status);
  if (const auto status = ucx.worker_get_efd(worker_, &event_fd_); status != UCS_OK)
    return ucx_failure(ucx, "event fd", status);
  ucp_address_t* address = nullptr;
  size_t bytes = 0;
  if (const auto status = ucx.worker_get_address(worker_, &address, &bytes); status != UCS_OK)
    return ucx_failure(ucx, "address", status);
  const auto* const first = reinterpret_cast<const std::byte*>(address);
  worker_address_.assign(first, first + bytes);
  ucx.worker_release_address(worker_, address);
  if (bytes == 0 || bytes > kFabricBytesMax)
    return fail(Code::kUnavailable,
                fmt::format("UCX: an address of {} bytes, expected 1 to {}", bytes, kFabricBytesMax));
  return open_messages();
}

Result<void> FabricPeer::open_messages() {
  ucp_am_handler_param_t params{};
  params.field_mask =
      UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = kActiveMessage;
  params.arg = this;
  params.cb = [](void* self, const void* head, size_t head_bytes, void* bytes, size_t count,
                 const ucp_am_recv_param_t* how) {
    auto& peer = *static_cast<FabricPeer*>(self);
    if ((how->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
      peer.note(UCS_ERR_UNSUPPORTED, "message by rendezvous");
    } else {
      peer.receive({static_cast<const std::byte*>(head), head_bytes},
                   {static_cast<const std::byte*>(bytes), count});
    }
    return UCS_OK;
  };
  const auto status = fabric_.ucx_.worker_set_am_recv_handler(worker_, &params);
  return status == UCS_OK ? Result<void>() : ucx_failure(fabric_.ucx_, "active messages", status);
}

// Writes that still wait for a peer that was stopped read the key while the endpoint is closed: the key goes
// after it, and before the worker, whose end is what ends the peer's writes.
FabricPeer::~FabricPeer() {
  const Library& ucx = fabric_.ucx_;
  if (endpoint_ != nullptr) {
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_EP_CLOSE_FLAG_FORCE;
    void* const request = ucx.ep_close_nbx(endpoint_, &params);
    if (UCS_PTR_IS_PTR(request)) {
      for (int i = 0; i < kCloseTurnsMax && ucx.request_check_status(request) == UCS_INPROGRESS; ++i)
        ucx.worker_progress(worker_);
      ucx.request_free(request);
    }
  }
  if (key_ != nullptr) ucx.rkey_destroy(key_);
  if (worker_ != nullptr) ucx.worker_destroy(worker_);
}

// D: P's bytes go where P says, within the arena; like a device, this looks at no grant.
void FabricPeer::receive(std::span<const std::byte> head_bytes, std::span<const std::byte> bytes) {
  MessageHead head;
  if (head_bytes.size() != sizeof(head)) return note(UCS_ERR_INVALID_PARAM, "head of a message");
  std::memcpy(&head, head_bytes.data(), sizeof(head));
  if (head.kind == Kind::kFrame) {
    if (head.at != bytes_received_) return note(UCS_ERR_MESSAGE_TRUNCATED, "bytes before a message");
    said_.emplace_back(bytes.begin(), bytes.end());
    return;
  }
  const bool fits =
      is_written_ && bytes.size() <= fabric_.bytes() && head.at <= fabric_.bytes() - bytes.size();
  if (head.kind != Kind::kBytes || !fits) return note(UCS_ERR_OUT_OF_RANGE, "place of a message");
  std::memcpy(fabric_.arena_.data() + head.at, bytes.data(), bytes.size());
  bytes_received_ += bytes.size();
}

void FabricPeer::say(std::vector<std::byte> frame) {
  send({.kind = Kind::kFrame, .at = bytes_sent_}, std::move(frame), nullptr, 0);
}

std::vector<std::vector<std::byte>> FabricPeer::take_said() { return std::exchange(said_, {}); }

FabricAddress FabricPeer::address(bool may_write) {
  is_written_ = may_write;
  if (!may_write) return {.worker = worker_address_, .key = {}};
  return {.worker = worker_address_,
          .base = reinterpret_cast<uint64_t>(fabric_.arena_.data()),
          .bytes = fabric_.bytes(),
          .key = fabric_.key_};
}

Result<void> FabricPeer::connect(const FabricAddress& address, const kv::KvLayout& theirs) {
  const Library& ucx = fabric_.ucx_;
  CHECK(endpoint_ == nullptr && !address.worker.empty());
  theirs_ = theirs;
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.worker.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.arg = this;
  params.err_handler.cb = [](void* self, ucp_ep_h /*endpoint*/, ucs_status_t status) {
    static_cast<FabricPeer*>(self)->note(status, "endpoint");
  };
  if (const auto status = ucx.ep_create(worker_, &params, &endpoint_); status != UCS_OK) {
    endpoint_ = nullptr;
    return ucx_failure(ucx, "endpoint", status);
  }
  if (address.key.empty()) return {};
  if (const auto status = ucx.ep_rkey_unpack(endpoint_, address.key.data(), &key_); status != UCS_OK) {
    key_ = nullptr;
    return ucx_failure(ucx, "key of the peer's KV arena", status);
  }
  their_base_ = address.base;
  their_bytes_ = address.bytes;
  return {};
}

Result<void> FabricPeer::check_blocks(std::span<const BlockId> blocks) const {
  const size_t have = their_bytes_ / theirs_.block_bytes();
  for (const BlockId block : blocks) {
    if (index(block) < have) continue;
    return fail(Code::kCorrupt,
                fmt::format("Landing: target block is {}, expected below {}", index(block), have));
  }
  return {};
}

void FabricPeer::push(Push push, std::vector<BlockId> target) {
  CHECK(key_ != nullptr && target.size() == push.move.target_blocks());
  const kv::PieceCursor first(push.move);
  jobs_.push_back({.push = std::move(push), .target = std::move(target), .next = first});
}

void FabricPeer::drop(TransferId transfer) {
  std::erase_if(jobs_, [&](const Job& job) { return job.push.transfer == transfer; });
  for (Flush& flush : ends_) {
    if (flush.end.transfer == transfer && !flush.end.withdrawn) flush.end.transfer = {};
  }
}

void FabricPeer::withdraw(TransferId transfer) {
  drop(transfer);
  flush({.transfer = transfer, .layers = {}, .withdrawn = true, .source = {}, .epochs = {}});
}

std::vector<FabricPeer::Progress> FabricPeer::take_progress() {
  if (!std::exchange(has_written_, false)) return {};
  std::vector<Progress> under_way;
  for (const Flush& flush : ends_) {
    if (flush.end.transfer != TransferId{} && !flush.end.withdrawn)
      under_way.push_back({flush.end.transfer, flush.end.bytes});
  }
  for (const Job& job : jobs_) under_way.push_back({job.push.transfer, job.bytes});
  return under_way;
}

Result<std::vector<FabricEnd>> FabricPeer::step() {
  progress();
  while (!error_ && in_flight_ < kPutsMax && !jobs_.empty()) {
    Job& job = jobs_.front();
    put_next(job);
    if (!job.next.is_done()) continue;
    flush({.transfer = job.push.transfer,
           .layers = job.push.layers,
           .last = job.push.last,
           .bytes = job.bytes,
           .source = std::move(job.push.source),
           .epochs = std::move(job.push.epochs)});
    jobs_.pop_front();
  }
  progress();
  if (error_) return Failure(*error_);
  std::vector<FabricEnd> ended;
  for (; !ends_.empty() && ends_.front().done; ends_.pop_front()) {
    if (ends_.front().end.transfer != TransferId{}) ended.push_back(std::move(ends_.front().end));
  }
  return ended;
}

bool FabricPeer::may_sleep() {
  if (error_ || (!jobs_.empty() && in_flight_ < kPutsMax)) return false;
  if (!ends_.empty() && ends_.front().done) return false;
  return fabric_.ucx_.worker_arm(worker_) == UCS_OK;
}

void FabricPeer::progress() {
  for (int i = 0; i < kProgressAtOnce && fabric_.ucx_.worker_progress(worker_) != 0; ++i) continue;
}

// One write: the rest of a piece and its neighbours, as long as both sides have them in one stretch.
void FabricPeer::put_next(Job& job) {
  const kv::KvLayout& ours = fabric_.arena_.layout();
  const Push& push = job.push;
  const kv::Piece& piece = *job.next;
  const size_t write_max = sends_messages() ? kMessageBytesMax : kPutBytesMax;
  const size_t first = push.layers.first * ours.layer_bytes(piece.tokens);
  const size_t range = push.layers.count * ours.layer_bytes(piece.tokens);
  size_t from = ours.offset(0, push.source[piece.source]);
  size_t to = theirs_.offset(0, job.target[piece.target]);
  size_t bytes = 0;
  if (piece.tokens == ours.block_tokens && piece.tokens == theirs_.block_tokens) {
    from += first + job.offset;
    to += first + job.offset;
    bytes = std::min(range - job.offset, write_max);
  } else {
    const size_t vector = ours.head_dim * size_of(ours.dtype);
    const size_t row = (first + job.offset) / (piece.tokens * vector);
    from += (row * ours.block_tokens + piece.source_token) * vector;
    to += (row * theirs_.block_tokens + piece.target_token) * vector;
    bytes = piece.tokens * vector;
  }
  const auto advance = [&](size_t by) {
    job.offset += by;
    if (job.offset < push.layers.count * ours.layer_bytes(job.next->tokens)) return;
    job.offset = 0;
    job.next.next();
  };
  advance(bytes);
  while (range == ours.block_bytes() && job.offset == 0 && !job.next.is_done() &&
         job.next->tokens == ours.block_tokens && job.next->tokens == theirs_.block_tokens &&
         bytes + range <= write_max && ours.offset(0, push.source[job.next->source]) == from + bytes &&
         theirs_.offset(0, job.target[job.next->target]) == to + bytes) {
    bytes += range;
    advance(range);
  }
  job.bytes += bytes;
  put(from, to, bytes);
}

void FabricPeer::put(size_t from, size_t to, size_t bytes) {
  CHECK(from + bytes <= fabric_.bytes() && to + bytes <= their_bytes_, "{} bytes from {} to {}", bytes, from,
        to);
  if (sends_messages()) {
    bytes_sent_ += bytes;
    return send({.kind = Kind::kBytes, .at = to}, {}, fabric_.arena_.data() + from, bytes);
  }
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMH;
  params.user_data = this;
  params.memh = fabric_.memory_;
  params.cb.send = [](void* request, ucs_status_t status, void* self) {
    auto& peer = *static_cast<FabricPeer*>(self);
    --peer.in_flight_;
    peer.has_written_ = true;
    if (status != UCS_OK) peer.note(status, "write");
    peer.fabric_.ucx_.request_free(request);
  };
  void* const request =
      fabric_.ucx_.put_nbx(endpoint_, fabric_.arena_.data() + from, bytes, their_base_ + to, key_, &params);
  if (UCS_PTR_IS_ERR(request)) note(UCS_PTR_STATUS(request), "write");
  if (UCS_PTR_IS_PTR(request)) {
    ++in_flight_;
  } else {
    has_written_ = true;
  }
}

// Bytes of the arena, or the frame. Both, and the head, must stay until the message is over.
void FabricPeer::send(MessageHead head, std::vector<std::byte> frame, const std::byte* bytes, size_t count) {
  Sent& sent = sent_.emplace_back(Sent{.peer = this, .head = head, .frame = std::move(frame), .self = {}});
  sent.self = std::prev(sent_.end());
  if (bytes == nullptr) {
    bytes = sent.frame.data();
    count = sent.frame.size();
  }
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  params.user_data = &sent;
  params.cb.send = [](void* request, ucs_status_t status, void* entry) {
    auto& over = *static_cast<Sent*>(entry);
    FabricPeer& peer = *over.peer;
    --peer.in_flight_;
    peer.has_written_ = true;
    if (status != UCS_OK) peer.note(status, "message");
    peer.sent_.erase(over.self);
    peer.fabric_.ucx_.request_free(request);
  };
  void* const request = fabric_.ucx_.am_send_nbx(endpoint_, kActiveMessage, &sent.head, sizeof(sent.head),
                                                 bytes, count, &params);
  if (UCS_PTR_IS_PTR(request)) {
    ++in_flight_;
    return;
  }
  has_written_ = true;
  if (UCS_PTR_IS_ERR(request)) note(UCS_PTR_STATUS(request), "message");
  sent_.erase(sent.self);
}

// Ends when everything that was written before is in the peer's memory (as messages: has left): a write's own
// end says only that its source may be used again.
void FabricPeer::flush(FabricEnd end) {
  Flush& pending = ends_.emplace_back(Flush{.peer = this, .end = std::move(end)});
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.user_data = &pending;
  params.cb.send = [](void* request, ucs_status_t status, void* entry) {
    auto& flushed = *static_cast<Flush*>(entry);
    flushed.done = true;
    if (status != UCS_OK) flushed.peer->note(status, "flush");
    flushed.peer->fabric_.ucx_.request_free(request);
  };
  void* const request = fabric_.ucx_.ep_flush_nbx(endpoint_, &params);
  if (UCS_PTR_IS_ERR(request)) note(UCS_PTR_STATUS(request), "flush");
  if (!UCS_PTR_IS_PTR(request)) pending.done = true;
}

// UCX's codes vary (timeout, reset, input/output): the peer is lost with each of them.
void FabricPeer::note(int status, const char* what) {
  if (!error_) error_ = ucx_failure(fabric_.ucx_, what, static_cast<ucs_status_t>(status)).error();
}

}  // namespace baton::transfer::ucx
