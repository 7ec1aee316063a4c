#include "net/peer_auth.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace baton::net {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(PeerAuth, ProvesWithTheMacThatOpensslComputes) {
  // Expected: printf "P\0text" | openssl dgst -sha256 -hmac 0123456789abcdef
  const auto secret = ClusterSecret::from_bytes("0123456789abcdef");
  ASSERT_TRUE(secret);
  const auto mac = secret->prove("P", bytes_of("text"));
  std::string hex;
  for (const uint8_t byte : mac) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  EXPECT_EQ(hex, "7d2ccd6733c7244feffd2715c2e70a1ec537bbf7fb7fa0e98c355b2e2f6614b1");
}

TEST(PeerAuth, DependsOnSecretRoleAndTranscript) {
  const auto a = ClusterSecret::from_bytes("0123456789abcdef");
  const auto b = ClusterSecret::from_bytes("0123456789abcdeF");
  EXPECT_TRUE(equal_secrets(a->prove("P", bytes_of("x")), a->prove("P", bytes_of("x"))));
  EXPECT_FALSE(equal_secrets(a->prove("P", bytes_of("x")), b->prove("P", bytes_of("x"))));
  EXPECT_FALSE(equal_secrets(a->prove("P", bytes_of("x")), a->prove("D", bytes_of("x"))));
  EXPECT_FALSE(equal_secrets(a->prove("P", bytes_of("x")), a->prove("P", bytes_of("y"))));
}

TEST(PeerAuth, ReadsASecretThatOnlyItsOwnerMayRead) {
  const auto path = std::filesystem::temp_directory_path() / ("baton-secret-" + std::to_string(getpid()));
  std::ofstream(path) << "0123456789abcdef\n";
  chmod(path.c_str(), 0600);
  const auto secret = ClusterSecret::read(path);
  ASSERT_TRUE(secret) << secret.error().message;
  EXPECT_EQ(secret->prove("P", {}), ClusterSecret::from_bytes("0123456789abcdef")->prove("P", {}));
  chmod(path.c_str(), 0644);
  EXPECT_EQ(ClusterSecret::read(path).error().code, Code::kInvalid);
  chmod(path.c_str(), 0600);
  std::ofstream(path) << "short\n";
  EXPECT_NE(ClusterSecret::read(path).error().message.find("5 bytes, expected 16"), std::string::npos);
  std::filesystem::remove(path);
  EXPECT_EQ(ClusterSecret::read(path).error().code, Code::kNotFound);
}

}  // namespace
}  // namespace baton::net
