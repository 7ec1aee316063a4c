// Records that nobody wrote: damaged, cut off, or made by somebody who computes the checksums anew.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "engine/archive.h"
#include "engine/recorder.h"
#include "model/testing.h"

namespace baton::engine {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

void append_framed(std::vector<std::byte>& out, std::span<const std::byte> body) {
  Writer writer(out);
  const auto size = static_cast<uint32_t>(body.size());
  const uint64_t hash = XXH3_64bits(body.data(), body.size());
  field(writer, size);
  writer.bytes(body.data(), body.size());
  field(writer, hash);
}

std::vector<std::byte> body_of(const RecordedStep& step) {
  std::vector<std::byte> body;
  Writer writer(body);
  fields(writer, step.now, step.inbox, step.ended, step.pass, step.outbox_hash);
  return body;
}

std::vector<std::byte> bytes_of(const RecordHead& head, const std::vector<std::vector<std::byte>>& steps) {
  std::vector<std::byte> out;
  std::vector<std::byte> body;
  Writer writer(out);
  Writer head_writer(body);
  writer.bytes(kRecordMagic.data(), kRecordMagic.size());
  field(writer, kRecordVersion);
  field(head_writer, head);
  append_framed(out, body);
  for (const auto& step : steps) append_framed(out, step);
  return out;
}

std::vector<std::byte> bytes_of(const Record& record) {
  std::vector<std::vector<std::byte>> steps;
  for (const RecordedStep& step : record.steps) steps.push_back(body_of(step));
  return bytes_of(record.head, steps);
}

Request request(uint64_t id) {
  Request r;
  r.id = RequestId{id};
  r.prompt = {1, 2, 3};
  r.hold = HandoverId{{static_cast<uint8_t>(id)}};
  return r;
}

Request remote_request(uint64_t id) {
  Request r = request(id);
  r.hold.reset();
  r.remote.emplace();
  r.remote->host = "p";
  r.remote->tokens = 3;
  r.transfer = TransferId{{static_cast<uint8_t>(id)}};
  return r;
}

// Three steps of an instance that prefills, decodes and has a peer.
Record good() {
  Record record;
  record.head.fingerprint = model::FakeModel().info().fingerprint;
  record.head.layout = model::FakeModel().info().kv_layout;
  record.head.arena_blocks = 8;
  transfer::PeerUp up;
  up.peer = transfer::PeerId{transfer::kAcceptedPeers};
  up.identity.layout = record.head.layout;
  const auto step = [&](int ms, std::vector<Inbox> inbox) {
    RecordedStep one;
    one.now = Time{milliseconds(ms)};
    one.inbox = std::move(inbox);
    one.ended = true;
    record.steps.push_back(std::move(one));
  };
  step(1, {Submit{request(1)}, transfer::MoverEvent(up)});
  step(2, {Submit{remote_request(2)},
           transfer::MoverEvent(transfer::Received{up.peer, transfer::Renew{HandoverId{{1}}}})});
  step(3, {});
  return record;
}

Request& submitted(Record& record, size_t step) {
  return std::get<Submit>(record.steps[step].inbox[0]).request;
}

std::string error_of(std::span<const std::byte> bytes) {
  const auto record = parse_record(bytes);
  return record ? "" : record.error().message;
}

TEST(Record, SaysWhichStepBreaksWhatAnEngineTakesForGranted) {
  ASSERT_EQ(error_of(bytes_of(good())), "");
  struct Row {
    std::function<void(Record&)> spoil;
    std::string expected;
  };
  const Row rows[] = {
      {[](Record& r) { submitted(r, 1).id = RequestId{1}; },
       "step 1: inbox[0]: request.id: 1 comes twice, expected a new one"},
      {[](Record& r) {
         submitted(r, 1) = request(2);
         submitted(r, 1).hold = submitted(r, 0).hold;
       },
       "step 1: inbox[0]: request.hold: 01000000000000000000000000000000 comes twice, expected a new one"},
      {[](Record& r) {
         submitted(r, 0) = remote_request(1);
         submitted(r, 1).transfer = submitted(r, 0).transfer;
       },
       "step 1: inbox[0]: request.transfer: 01000000000000000000000000000000 comes twice"},
      {[](Record& r) { submitted(r, 0).deadline = Time{Duration::min()}; },
       "step 0: inbox[0]: request.deadline is -9223372036854775808 ns, expected at least 0"},
      {[](Record& r) { r.steps[0].now = Time{Duration::min()}; },
       "step 0: now is -9223372036854775808 ns, expected 0 to 3153600000000000000"},
      {[](Record& r) { r.steps[2].now = kNever; },
       "step 2: now is 9223372036854775807 ns, expected 2000000 to"},
      {[](Record& r) { r.steps[2].now = r.steps[0].now; }, "step 2: now is 1000000 ns, expected 2000000 to"},
      {[](Record& r) { r.steps[1].pass.took = Duration(-1); }, "step 1: pass.took is -1 ns, expected 0 to"},
      {[](Record& r) { r.steps[1].ended = false; },
       "step 2: follows a step that has not ended, expected the end of the record"},
      {[](Record& r) {
         auto& event = std::get<transfer::MoverEvent>(r.steps[0].inbox[1]);
         std::get<transfer::PeerUp>(event).identity.layout.block_tokens = 0;
       },
       "step 0: inbox[1].identity.layout: KV layout: block_size is 0, expected 1..1024"},
      {[](Record& r) { r.head.layout.head_dim = 0; }, "head: KV layout: head_dim is 0, expected 1..4096"},
      {[](Record& r) { r.head.arena_blocks = UINT32_MAX; },
       "head: arena_blocks is 4294967295, expected 1 to 16777216"},
      {[](Record& r) { r.head.config.limits.batch_tokens_max = UINT32_MAX; },
       "head: config.limits.batch_tokens_max is 4294967295, expected 1 to 262144"},
      {[](Record& r) { r.head.config.limits.seqs_max = 0; },
       "head: config.limits.seqs_max is 0, expected 1 to 262144"},
      {[](Record& r) { r.head.config.handover.lease = Duration::max(); },
       "head: config.handover.lease is 9223372036854775807 ns, expected 0 to 31536000000000000"},
      {[](Record& r) { r.head.config.landing_max = Duration::min(); }, "head: config.landing_max is"},
  };
  for (const Row& row : rows) {
    Record record = good();
    row.spoil(record);
    EXPECT_EQ(error_of(bytes_of(record)).substr(0, row.expected.size()), row.expected);
  }
}

// A longer step than is read would be recorded in vain.
TEST(Record, AnEngineThatStartsLeavesARecordThatIsRead) {
  model::FakeModel model;
  const auto arena = *kv::KvArena::create(model.info().kv_layout, 4, Incarnation{});
  EngineConfig config;
  for (const uint32_t tokens : {kRecordBatchTokensMax, kRecordBatchTokensMax + 1}) {
    config.limits.batch_tokens_max = tokens;
    const Result<void> starts = check_config(config, model.info(), *arena);
    EXPECT_EQ(starts.has_value(), tokens == kRecordBatchTokensMax);
    Recorder recorder(::testing::TempDir());
    recorder.start(config, model.info(), arena->blocks());
    EXPECT_EQ(parse_record(recorder.bytes()).has_value(), starts.has_value());
    if (!starts)
      EXPECT_EQ(starts.error().message, "max_num_batched_tokens is 262145, expected at most 262144");
  }
}

// Puts `value` where `field_of` of the only step's body stands, and computes the checksum anew.
std::string error_with(const Record& record, std::span<const std::byte> old,
                       std::span<const std::byte> fresh) {
  std::vector<std::byte> body = body_of(record.steps[0]);
  const auto at = std::ranges::search(body, old);
  EXPECT_FALSE(at.empty()) << "the step has no such bytes";
  std::ranges::copy(fresh, at.begin());
  return error_of(bytes_of(record.head, {body}));
}

TEST(Record, NamesTheFieldWhoseBytesLie) {
  Record record = good();
  record.steps.resize(1);
  const auto bytes = [](auto... b) { return std::vector<std::byte>{static_cast<std::byte>(b)...}; };
  // The prompt of three tokens says that it has four billion; so does the inbox of two items.
  EXPECT_EQ(error_with(record, bytes(3, 0, 0, 0, 1, 0, 0, 0), bytes(255, 255, 255, 255)).substr(0, 26),
            "step 0: inbox[0].request.p");
  std::vector<std::byte> body = body_of(record.steps[0]);
  std::ranges::fill(std::span(body).subspan(8, 4), std::byte{255});
  EXPECT_EQ(error_of(bytes_of(record.head, {body})),
            "step 0: inbox: 4294967295 entries, expected at most 131072");
  body = body_of(record.steps[0]);
  body[12] = std::byte{77};
  EXPECT_EQ(error_of(bytes_of(record.head, {body})), "step 0: inbox[0]: 77 is no kind, expected 0 to 7");
  body.resize(20);
  body[12] = std::byte{0};
  EXPECT_EQ(error_of(bytes_of(record.head, {body})),
            "step 0: inbox[0].request.id: 7 bytes are left, expected 8");
  body = body_of(record.steps[0]);
  body.push_back({});
  EXPECT_EQ(error_of(bytes_of(record.head, {body})), "step 0: 1 surplus bytes, expected none");
  // A message that only the mover may see, with the head of KV bytes.
  record.steps[0].inbox = {transfer::MoverEvent(transfer::Received{transfer::PeerId{1}, transfer::Ping{}})};
  EXPECT_EQ(error_with(record, bytes(8, 0, 0, 0, 0, 0, 0, 0, 16), bytes(8, 0, 0, 0, 0, 0, 0, 0, 22)),
            "step 0: inbox[0].message: frame head: body_bytes: 0, expected 41 to 262184");
}

TEST(Record, EveryDamagedByteAndEveryCutIsNoticed) {
  const auto bytes = bytes_of(good());
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const int flip : {1, 0x80}) {
      auto damaged = bytes;
      damaged[at] ^= static_cast<std::byte>(flip);
      EXPECT_NE(error_of(damaged), "") << "byte " << at;
    }
  }
  size_t whole = 0;  // cuts between two steps leave a shorter record
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    const std::string error = error_of(std::span(bytes).first(cut));
    whole += error.empty() ? 1 : 0;
    EXPECT_TRUE(error.empty() || error.find("expected") != std::string::npos) << error;
  }
  EXPECT_EQ(whole, good().steps.size());
}

TEST(Record, ErrorsOfAFileBeginWithItsPath) {
  const std::string path = ::testing::TempDir() + "/cut.record";
  auto bytes = bytes_of(good());
  bytes.resize(bytes.size() - 3);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  const auto cut = read_record_file(path);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().message.substr(0, path.size() + 31), path + ": step 2: the record ends 35 by");
  const auto missing = read_record_file(path + ".not");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::kNotFound);
  const auto folder = read_record_file(::testing::TempDir());
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().code, Code::kIo);
}

// The fuzz target begins with these; tests/traces makes them anew (BATON_WRITE_RECORDS=tests/fuzz/recorder).
TEST(Record, TheSeedsOfTheFuzzTargetAreRecordsOfThisVersion) {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(BATON_SOURCE_DIR "/tests/fuzz/recorder")) {
    const auto record = read_record_file(entry.path());
    EXPECT_TRUE(record) << record.error().message;
    ++count;
  }
  EXPECT_GT(count, 10U);
}

}  // namespace
}  // namespace baton::engine
