#include "net/tls.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "net/fd.h"

namespace baton::net {
namespace {

// The reason of the first error on the queue, which is then empty.
std::string first_reason() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* const reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason == nullptr ? "no reason given" : reason;
}

// ---- a BIO over a socket whose writes raise no SIGPIPE

int socket_of(BIO* bio) { return static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio))); }

int write_socket(BIO* bio, const char* bytes, int count) {
  BIO_clear_retry_flags(bio);
  ssize_t sent = -1;
  do sent = ::send(socket_of(bio), bytes, static_cast<size_t>(count), MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno == EAGAIN) BIO_set_retry_write(bio);
  return static_cast<int>(sent);
}

int read_socket(BIO* bio, char* space, int count) {
  BIO_clear_retry_flags(bio);
  ssize_t got = -1;
  do got = ::recv(socket_of(bio), space, static_cast<size_t>(count), 0);
  while (got < 0 && errno == EINTR);
  if (got < 0 && errno == EAGAIN) BIO_set_retry_read(bio);
  return static_cast<int>(got);
}

long control_socket(BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

const BIO_METHOD* socket_method() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");
    CHECK(made != nullptr, "BIO_meth_new");
    BIO_meth_set_write(made, write_socket);
    BIO_meth_set_read(made, read_socket);
    BIO_meth_set_ctrl(made, control_socket);
    return made;
  }();
  return method;
}

Result<void> check_file(std::string_view what, const std::string& path, bool is_secret) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    const Code code = errno == ENOENT ? Code::kNotFound : Code::kIo;
    return fail(code, fmt::format("{} {}: {}", what, path, std::strerror(errno)));
  }
  struct stat status{};
  if (fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode))
    return fail(Code::kInvalid, fmt::format("{} {}: expected a regular file", what, path));
  if (is_secret && (status.st_mode & S_IRWXO) != 0) {
    return fail(Code::kInvalid, fmt::format("{} {}: mode is {:o}, expected no access for others (chmod 600)",
                                            what, path, status.st_mode & 0777U));
  }
  return {};
}

}  // namespace

void TlsContext::Free::operator()(SSL_CTX* context) const { SSL_CTX_free(context); }

Result<std::shared_ptr<const TlsContext>> TlsContext::create(const TlsFiles& files) {
  TRY_DO(check_file("TLS certificate", files.certificate, false));
  TRY_DO(check_file("TLS key", files.key, true));
  TRY_DO(check_file("TLS authorities", files.authorities, false));
  SSL_CTX* const context = SSL_CTX_new(TLS_method());
  CHECK(context != nullptr, "SSL_CTX_new");
  std::shared_ptr<const TlsContext> made(new TlsContext(context));
  CHECK(SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1, "TLS 1.3");
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context, 0);
  // An encrypted key must not ask at the terminal.
  SSL_CTX_set_default_passwd_cb(context,
                                [](char* /*space*/, int /*size*/, int /*rw*/, void* /*data*/) { return -1; });
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(context, files.certificate.c_str()) != 1) {
    return fail(Code::kInvalid, fmt::format("TLS certificate {}: {}, expected certificates in PEM",
                                            files.certificate, first_reason()));
  }
  if (SSL_CTX_use_PrivateKey_file(context, files.key.c_str(), SSL_FILETYPE_PEM) != 1) {
    return fail(Code::kInvalid,
                fmt::format("TLS key {}: {}, expected the key of {} in PEM, without a passphrase", files.key,
                            first_reason(), files.certificate));
  }
  if (SSL_CTX_load_verify_file(context, files.authorities.c_str()) != 1) {
    return fail(Code::kInvalid, fmt::format("TLS authorities {}: {}, expected certificates in PEM",
                                            files.authorities, first_reason()));
  }
  return made;
}

void TlsSession::Free::operator()(SSL* session) const { SSL_free(session); }

TlsSession::TlsSession(std::shared_ptr<const TlsContext> context, int socket, TlsRole role)
    : context_(std::move(context)), session_(SSL_new(context_->handle())) {
  BIO* const bio = BIO_new(socket_method());
  CHECK(session_ && bio != nullptr, "SSL_new");
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<intptr_t>(socket)));
  BIO_set_init(bio, 1);
  SSL_set_bio(session_.get(), bio, bio);
  role == TlsRole::kConnects ? SSL_set_connect_state(session_.get()) : SSL_set_accept_state(session_.get());
}

// What a call that gave `result` failed of; `doing` names the call.
Error TlsSession::failure(int result, std::string_view doing) {
  const int saved = errno;
  const int kind = SSL_get_error(session_.get(), result);
  const unsigned long code = ERR_peek_error();
  const long verified = SSL_get_verify_result(session_.get());
  const std::string reason = first_reason();
  if (code == 0) {
    const bool is_end = kind == SSL_ERROR_ZERO_RETURN || result == 0 || saved == 0;
    return {Code::kUnavailable, is_end ? "the peer closed the connection"
                                       : fmt::format("TLS {}: {}", doing, std::strerror(saved))};
  }
  switch (ERR_GET_REASON(code)) {
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
      return {Code::kUnavailable, "the peer closed the connection"};
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      return {Code::kDenied,
              fmt::format("TLS: the peer's certificate: {}, expected one of this cluster's authority",
                          X509_verify_cert_error_string(verified))};
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return {Code::kDenied, "TLS: the peer shows no certificate, expected one of this cluster's authority"};
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
      return {Code::kDenied, fmt::format("TLS: the peer refuses this side's certificate: {}", reason)};
    case SSL_R_WRONG_VERSION_NUMBER:
      return {Code::kCorrupt, "TLS: the peer does not speak TLS"};
    default:
      return {Code::kCorrupt, fmt::format("TLS {}: {}", doing, reason)};
  }
}

Result<bool> TlsSession::shake_hands() {
  ERR_clear_error();
  errno = 0;
  const int result = SSL_do_handshake(session_.get());
  if (result == 1) {
    wants_write_ = false;
    return true;
  }
  const int kind = SSL_get_error(session_.get(), result);
  wants_write_ = kind == SSL_ERROR_WANT_WRITE;
  if (wants_write_ || kind == SSL_ERROR_WANT_READ) return false;
  return Failure(failure(result, "handshake"));
}

Result<std::optional<size_t>> TlsSession::receive(std::span<std::byte> space) {
  ERR_clear_error();
  errno = 0;
  const int count = static_cast<int>(std::min<size_t>(space.size(), INT_MAX));
  const int got = SSL_read(session_.get(), space.data(), count);
  if (got > 0) return std::optional<size_t>(static_cast<size_t>(got));
  const int kind = SSL_get_error(session_.get(), got);
  wants_write_ = kind == SSL_ERROR_WANT_WRITE;
  if (wants_write_ || kind == SSL_ERROR_WANT_READ) return std::optional<size_t>();
  return Failure(failure(got, "receive"));
}

Result<std::optional<size_t>> TlsSession::send(std::span<const std::byte> bytes) {
  ERR_clear_error();
  errno = 0;
  const int count = static_cast<int>(std::min<size_t>(bytes.size(), INT_MAX));
  const int sent = SSL_write(session_.get(), bytes.data(), count);
  if (sent > 0) return std::optional<size_t>(static_cast<size_t>(sent));
  const int kind = SSL_get_error(session_.get(), sent);
  wants_write_ = kind == SSL_ERROR_WANT_WRITE;
  if (wants_write_ || kind == SSL_ERROR_WANT_READ) return std::optional<size_t>();
  return Failure(failure(sent, "send"));
}

bool TlsSession::has_pending() const { return SSL_has_pending(session_.get()) == 1; }

bool TlsSession::has_begun() const { return SSL_in_before(session_.get()) == 0; }

bool looks_like_tls(std::span<const std::byte> first) {
  constexpr std::byte kHandshake{22};
  constexpr std::byte kMajor{3};
  constexpr std::byte kMinorMax{4};
  if (!first.empty() && first[0] != kHandshake) return false;
  if (first.size() > 1 && first[1] != kMajor) return false;
  return first.size() < 3 || (first[2] != std::byte{0} && first[2] <= kMinorMax);
}

}  // namespace baton::net
