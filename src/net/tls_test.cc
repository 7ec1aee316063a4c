#include "net/tls.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <fstream>
#include <functional>
#include <random>
#include <vector>

#include "net/fd.h"
#include "net/testing_certificates.h"

namespace baton::net {
namespace {

const TestAuthority& cluster() {
  static const TestAuthority authority("cluster");
  return authority;
}
const TestAuthority& stranger() {
  static const TestAuthority authority("stranger");
  return authority;
}

// Two sessions over a socket pair whose buffers are small, so that both ends have to wait.
struct Ends {
  Fd caller_fd;
  Fd listener_fd;
  std::optional<TlsSession> caller;
  std::optional<TlsSession> listener;

  Ends(const TlsFiles& calling, const TlsFiles& listening) {
    std::array<int, 2> fds{};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()), 0);
    caller_fd.reset(fds[0]);
    listener_fd.reset(fds[1]);
    const int bytes = 4096;
    for (const int fd : fds) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    caller.emplace(*TlsContext::create(calling), fds[0], TlsRole::kConnects);
    listener.emplace(*TlsContext::create(listening), fds[1], TlsRole::kAccepts);
  }

  // The first error of each side; empty: it is done. The caller may be done before the listener has refused
  // its certificate: it hears of that when it reads.
  std::pair<std::string, std::string> shake_hands() {
    std::pair<std::string, std::string> says;
    bool caller_done = false;
    bool listener_done = false;
    for (int i = 0; i < 1000 && !(caller_done && listener_done); ++i) {
      if (!caller_done) caller_done = step(*caller, says.first);
      if (!listener_done) listener_done = step(*listener, says.second);
    }
    EXPECT_TRUE(caller_done && listener_done);
    if (says.first.empty() && !says.second.empty()) {
      std::array<std::byte, 1> space{};
      const auto got = caller->receive(space);
      EXPECT_FALSE(got);
      if (!got) says.first = got.error().message;
    }
    return says;
  }

 private:
  static bool step(TlsSession& session, std::string& says) {
    const auto done = session.shake_hands();
    if (!done) says = done.error().message;
    return !done || *done;
  }
};

TEST(Tls, CarriesEveryByteThroughSocketsThatAreFull) {
  Ends ends(cluster().sign("p"), cluster().sign("d"));
  ASSERT_EQ(ends.shake_hands(), std::pair(std::string(), std::string()));
  std::vector<std::byte> sent(300'000);
  std::mt19937 random(7);
  for (std::byte& byte : sent) byte = static_cast<std::byte>(random() & 0xFF);
  std::vector<std::byte> got;
  size_t done = 0;
  size_t waits = 0;
  while (got.size() < sent.size()) {
    if (done < sent.size()) {
      const auto taken = ends.caller->send(std::span(sent).subspan(done));
      ASSERT_TRUE(taken) << taken.error().message;
      if (*taken) done += **taken;
      if (!*taken) ++waits;
    }
    std::array<std::byte, 999> space{};  // no divisor of a record: something is always pending
    const auto read = ends.listener->receive(space);
    ASSERT_TRUE(read) << read.error().message;
    if (*read) got.insert(got.end(), space.begin(), space.begin() + static_cast<ptrdiff_t>(**read));
  }
  EXPECT_TRUE(got == sent);
  EXPECT_GT(waits, 0U);
}

TEST(Tls, OnlyMembersOfTheClusterMeet) {
  TlsFiles mixed = stranger().sign("mixed");
  mixed.authorities = cluster().authorities();
  struct Row {
    const char* name;
    TlsFiles calling;
    TlsFiles listening;
    const char* caller_says;
    const char* listener_says;
  };
  for (const Row& row : {
           Row{"caller of another authority", mixed, cluster().sign("l1"),
               "the peer refuses this side's certificate",
               "the peer's certificate: unable to get local issuer certificate, expected one of this "
               "cluster's"},
           Row{"listener of another authority", cluster().sign("c2"), mixed,
               "the peer's certificate: unable to get local issuer certificate", "the peer refuses"},
           Row{"expired", cluster().sign("c3", -60), cluster().sign("l3"), "the peer refuses",
               "the peer's certificate: certificate has expired"},
       }) {
    SCOPED_TRACE(row.name);
    Ends ends(row.calling, row.listening);
    const auto [caller, listener] = ends.shake_hands();
    EXPECT_NE(caller.find(row.caller_says), std::string::npos) << caller;
    EXPECT_NE(listener.find(row.listener_says), std::string::npos) << listener;
  }
}

TEST(Tls, WhoSpeaksSomethingElseOrChangesAByteOrLeavesIsNamed) {
  {
    Ends ends(cluster().sign("p4"), cluster().sign("d4"));
    ASSERT_EQ(write(ends.caller_fd.get(), "GET / HTTP/1.1\r\n\r\n", 18), 18);
    const auto done = ends.listener->shake_hands();
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Code::kCorrupt) << done.error().message;
  }
  Ends ends(cluster().sign("p5"), cluster().sign("d5"));
  ASSERT_EQ(ends.shake_hands(), std::pair(std::string(), std::string()));
  const std::array<std::byte, 100> text{};
  ASSERT_TRUE(ends.caller->send(text));
  std::array<std::byte, 200> record{};
  const ssize_t size = recv(ends.listener_fd.get(), record.data(), record.size(), 0);
  ASSERT_GT(size, 100);
  record[60] ^= std::byte{1};
  ASSERT_EQ(write(ends.caller_fd.get(), record.data(), static_cast<size_t>(size)), size);
  std::array<std::byte, 200> space{};
  const auto got = ends.listener->receive(space);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, Code::kCorrupt) << got.error().message;
  ends.listener_fd.reset();
  const auto end = ends.caller->receive(space);
  ASSERT_FALSE(end);
  const auto sent = ends.caller->send(text);  // and no SIGPIPE
  ASSERT_FALSE(sent);
}

TEST(Tls, FilesThatCannotBeUsedAreNamed) {
  const TlsFiles good = cluster().sign("good");
  const auto with = [&](const std::function<void(TlsFiles&)>& spoil) {
    TlsFiles files = good;
    spoil(files);
    const auto made = TlsContext::create(files);
    return made ? std::string("fine") : made.error().message;
  };
  EXPECT_EQ(with([](TlsFiles&) {}), "fine");
  EXPECT_EQ(with([](TlsFiles& f) { f.key = "/no/key"; }), "TLS key /no/key: No such file or directory");
  EXPECT_EQ(with([](TlsFiles& f) { f.authorities = "/"; }), "TLS authorities /: expected a regular file");
  const std::string text = good.certificate + ".txt";
  std::ofstream(text) << "not a certificate\n";
  EXPECT_EQ(with([&](TlsFiles& f) { f.certificate = text; }),
            "TLS certificate " + text + ": no start line, expected certificates in PEM");
  EXPECT_NE(with([&](TlsFiles& f) { f.authorities = text; }).find("expected certificates in PEM"),
            std::string::npos);
  EXPECT_NE(with([&](TlsFiles& f) { f.key = cluster().sign("other").key; }).find("expected the key of"),
            std::string::npos);
  chmod(good.key.c_str(), 0644);
  EXPECT_EQ(with([](TlsFiles&) {}),
            "TLS key " + good.key + ": mode is 644, expected no access for others (chmod 600)");
}

}  // namespace
}  // namespace baton::net
