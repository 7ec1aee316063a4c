// Proof that a peer knows the cluster's secret, without showing it: HMAC-SHA256 (RFC 2104, FIPS 180-4) over
// everything both sides have said, their fresh nonces included, with a label for each side's role so that no
// proof can be sent back to its author.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::net {

inline constexpr size_t kSecretBytesMin = 16;
inline constexpr size_t kSecretBytesMax = 4096;

// What all instances of a cluster share. Never logged.
class ClusterSecret {
 public:
  // The file's bytes less trailing white space. kInvalid names the file if it is too short or too long or
  // others may read it, kNotFound/kIo if it cannot be read.
  static Result<ClusterSecret> read(const std::string& path);
  // kInvalid unless kSecretBytesMin to kSecretBytesMax bytes.
  static Result<ClusterSecret> from_bytes(std::string bytes);

  std::array<uint8_t, 32> prove(std::string_view role, std::span<const std::byte> transcript) const;

 private:
  explicit ClusterSecret(std::string bytes) : bytes_(std::move(bytes)) {}
  std::string bytes_;
};

// In constant time.
bool equal_secrets(std::span<const uint8_t, 32> a, std::span<const uint8_t, 32> b);

// From the operating system's generator.
std::array<uint8_t, 32> random_nonce();

}  // namespace baton::net
