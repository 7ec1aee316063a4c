#include "net/peer_auth.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "net/fd.h"

namespace baton::net {

Result<ClusterSecret> ClusterSecret::read(const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    const Code code = errno == ENOENT ? Code::kNotFound : Code::kIo;
    return fail(code, fmt::format("cluster secret {}: {}", path, std::strerror(errno)));
  }
  struct stat status{};
  if (fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return fail(Code::kInvalid, fmt::format("cluster secret {}: expected a regular file", path));
  }
  if ((status.st_mode & S_IRWXO) != 0) {
    return fail(Code::kInvalid,
                fmt::format("cluster secret {}: mode is {:o}, expected no access for others (chmod 600)",
                            path, status.st_mode & 0777U));
  }
  std::string bytes(kSecretBytesMax + 64, '\0');
  size_t size = 0;
  while (size < bytes.size()) {
    const ssize_t got = ::read(fd.get(), bytes.data() + size, bytes.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(Code::kIo, fmt::format("cluster secret {}: {}", path, std::strerror(errno)));
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  bytes.resize(size);
  bytes.resize(bytes.find_last_not_of(" \t\r\n") + 1);
  auto secret = from_bytes(std::move(bytes));
  if (!secret) return fail(Code::kInvalid, fmt::format("{}: {}", path, secret.error().message));
  return secret;
}

Result<ClusterSecret> ClusterSecret::from_bytes(std::string bytes) {
  if (bytes.size() < kSecretBytesMin || bytes.size() > kSecretBytesMax) {
    return fail(Code::kInvalid, fmt::format("cluster secret: {} bytes, expected {} to {}", bytes.size(),
                                            kSecretBytesMin, kSecretBytesMax));
  }
  return ClusterSecret(std::move(bytes));
}

std::array<uint8_t, 32> ClusterSecret::prove(std::string_view role,
                                             std::span<const std::byte> transcript) const {
  std::vector<uint8_t> text(role.begin(), role.end());
  text.push_back(0);
  const auto* const begin = reinterpret_cast<const uint8_t*>(transcript.data());
  text.insert(text.end(), begin, begin + transcript.size());
  std::array<uint8_t, 32> mac{};
  unsigned size = 0;
  const auto* const done = HMAC(EVP_sha256(), bytes_.data(), static_cast<int>(bytes_.size()), text.data(),
                                text.size(), mac.data(), &size);
  CHECK(done != nullptr && size == mac.size(), "HMAC-SHA256 failed");
  return mac;
}

bool equal_secrets(std::span<const uint8_t, 32> a, std::span<const uint8_t, 32> b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::array<uint8_t, 32> random_nonce() {
  std::array<uint8_t, 32> nonce{};
  CHECK(RAND_bytes(nonce.data(), static_cast<int>(nonce.size())) == 1, "no random bytes from the system");
  return nonce;
}

}  // namespace baton::net
