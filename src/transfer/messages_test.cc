#include "transfer/messages.h"

#include <gtest/gtest.h>

namespace baton::transfer {
namespace {

std::vector<Message> one_of_each() {
  Identity identity;
  identity.engine_id = "engine";
  identity.incarnation = random_id<Incarnation>();
  identity.fingerprint = "f00d";
  identity.layout = {.layers = 2, .kv_heads = 3, .head_dim = 4, .block_tokens = 32, .dtype = DType::kF32};
  identity.boot_id = "boot";
  identity.max_model_len = 4096;
  const auto transfer = random_id<TransferId>();
  const auto handover = random_id<HandoverId>();
  const Error error{Code::kTimeout, "too late"};
  return {
      Hello{.authenticates = true, .flow = Flow::kFromCaller, .nonce = {1, 2}, .identity = identity},
      Challenge{.authenticates = true, .nonce = {3}, .identity = identity, .mac = {4}},
      Proof{{5}},
      Welcome{"@name", {6}, {{std::byte{1}}, 2, 3, {std::byte{4}}}},
      Refused{error},
      Renew{handover},
      Landing{
          transfer, handover, identity.incarnation, {BlockId{7}, BlockId{8}}, 16, 48, "hash", Duration(9)},
      Ack{transfer, 10},
      Taken{handover, transfer},
      ReleaseHandover{handover, "reason"},
      Renewed{handover, Duration(11)},
      Announce{transfer, {0, 2}, 16, 48, {BlockId{1}, BlockId{2}}, {3, 4}, true},
      Pushed{transfer, {0, 2}, true},
      AbortTransfer{transfer, error},
      HandoverEnded{handover, error},
      Ping{},
      Ready{true, {{std::byte{5}, std::byte{6}}, 7, 8, {}}},
      Claim{transfer, handover},
      PrefillDone{transfer, {std::byte{1}, std::byte{2}}},
      Withdraw{transfer},
      Withdrawn{transfer}};
}

FrameHead head_of(std::span<const std::byte> bytes) { return *parse_head(bytes.first<kFrameHeadBytes>()); }

TEST(Messages, ReadWhatWasWritten) {
  const std::vector<Message> all = one_of_each();
  ASSERT_EQ(all.size(), std::variant_size_v<Message>);
  for (const Message& message : all) {
    const std::vector<std::byte> bytes = encode(message);
    const FrameHead head = head_of(bytes);
    EXPECT_EQ(head.body_bytes, bytes.size() - kFrameHeadBytes);
    const auto read = parse_body(head.kind, std::span(bytes).subspan(kFrameHeadBytes));
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(*read, message) << message_name(message);
  }
}

TEST(Messages, RefuseEveryShorterAndEveryLongerBody) {
  for (const Message& message : one_of_each()) {
    std::vector<std::byte> bytes = encode(message);
    const FrameKind kind = head_of(bytes).kind;
    const std::span<const std::byte> body = std::span<const std::byte>(bytes).subspan(kFrameHeadBytes);
    for (size_t cut = 0; cut < body.size(); ++cut) {
      EXPECT_FALSE(parse_body(kind, body.first(cut))) << message_name(message) << " cut at " << cut;
    }
    bytes.push_back(std::byte{0});
    const auto longer = parse_body(kind, std::span<const std::byte>(bytes).subspan(kFrameHeadBytes));
    ASSERT_FALSE(longer);
    EXPECT_NE(longer.error().message.find("surplus"), std::string::npos);
  }
}

TEST(Messages, NameTheFieldThatIsTooLarge) {
  Landing landing;
  landing.tokens_present = 5;
  landing.tokens_total = 4;
  const std::vector<std::byte> bytes = encode(Message(landing));
  const auto read = parse_body(FrameKind::kLanding, std::span(bytes).subspan(kFrameHeadBytes));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().message, "Landing: tokens_present: 5, expected at most 4");
}

TEST(Messages, LimitTheSizeOfAFrame) {
  std::vector<std::byte> bytes = encode(Message(Ping{}));
  bytes[2] = std::byte{0x11};
  const auto head = parse_head(std::span<const std::byte>(bytes).first<kFrameHeadBytes>());
  ASSERT_FALSE(head);
  EXPECT_EQ(head.error().message, "frame head: body_bytes: 1114112, expected 0 to 1048576");
}

TEST(Messages, CompareIdentitiesFieldByField) {
  const Identity own = std::get<Hello>(one_of_each()[0]).identity;
  EXPECT_EQ(find_mismatch(own, own), "");
  Identity theirs = own;
  theirs.engine_id = "other";
  theirs.incarnation = random_id<Incarnation>();
  EXPECT_EQ(find_mismatch(own, theirs), "");
  theirs.layout.block_tokens = 16;
  EXPECT_EQ(find_mismatch(own, theirs), "");
  theirs.layout.block_tokens = 24;
  EXPECT_EQ(find_mismatch(own, theirs), "KV layout: block_size is 24, expected a multiple of 16");
  theirs.layout.block_tokens = 0;
  EXPECT_EQ(find_mismatch(own, theirs), "KV layout: block_size is 0, expected 1..1024");
  theirs.layout.block_tokens = 32;
  theirs.layout.head_dim = 8;
  EXPECT_EQ(find_mismatch(own, theirs), "head_dim: peer has 8, expected 4");
  theirs.layout.kind = kv::KvKind::kLatent;
  EXPECT_EQ(find_mismatch(own, theirs), "kv_kind: peer has latent, expected keys and values");
}

}  // namespace
}  // namespace baton::transfer
