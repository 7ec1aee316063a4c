// TLS 1.3 (RFC 8446) on connected sockets between the instances of a cluster, where both sides show a
// certificate. Whoever has one that the cluster's authority signed is a member: names in it are not compared,
// because an instance is reached at whatever address a proxy says it has. A context is immutable and used by
// any thread; a session belongs to the thread that owns its socket.
#pragma once

#include <openssl/types.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"

namespace baton::net {

// PEM files (RFC 7468).
struct TlsFiles {
  std::string certificate;  // this side's, then what lies between it and the authority
  std::string key;          // nobody but its owner and group may read it
  std::string authorities;  // a peer's certificate leads to one of these
};

class TlsContext {
 public:
  // kInvalid, kNotFound, kIo: names the file, and what was found and expected in it.
  static Result<std::shared_ptr<const TlsContext>> create(const TlsFiles& files);
  SSL_CTX* handle() const { return context_.get(); }

 private:
  struct Free {
    void operator()(SSL_CTX* context) const;
  };
  explicit TlsContext(SSL_CTX* context) : context_(context) {}
  std::unique_ptr<SSL_CTX, Free> context_;
};

enum class TlsRole : uint8_t { kConnects, kAccepts };

// Over a non-blocking socket, which it does not own and which outlives it. Every call does what can be done
// without waiting. After an error the session is over.
class TlsSession {
 public:
  TlsSession(std::shared_ptr<const TlsContext> context, int socket, TlsRole role);

  // True when both sides have proved who they are; false: to be called again when the socket is ready for
  // what wants_write() says. kDenied names what was wrong with the peer's certificate, or that it refused
  // this one; kUnavailable that the connection ended; kCorrupt that the peer does not speak TLS.
  Result<bool> shake_hands();
  bool has_begun() const;
  // What the last call waited for: room to write, else bytes to read.
  bool wants_write() const { return wants_write_; }

  // The count of bytes received, at least one. Nothing: none is there now. kUnavailable: the end of the
  // connection, said by the peer or not; kCorrupt: changed on its way.
  Result<std::optional<size_t>> receive(std::span<std::byte> space);
  // The count of bytes taken, at least one, perhaps not all; nothing: no room now. Then the next call must
  // begin with the same bytes.
  Result<std::optional<size_t>> send(std::span<const std::byte> bytes);
  // Bytes that have been received and decrypted but not asked for: no epoll tells of them.
  bool has_pending() const;

 private:
  struct Free {
    void operator()(SSL* session) const;
  };
  Error failure(int result, std::string_view doing);

  std::shared_ptr<const TlsContext> context_;
  std::unique_ptr<SSL, Free> session_;
  bool wants_write_ = false;
};

// A peer's first bytes are, as far as there are any, the head of a TLS record with a handshake message (RFC
// 8446, 5.1).
bool looks_like_tls(std::span<const std::byte> first);

}  // namespace baton::net
