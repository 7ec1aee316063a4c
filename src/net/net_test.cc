#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/wait.h>

#include <array>
#include <cstring>
#include <map>

#include "net/address.h"
#include "net/interfaces.h"
#include "net/socket.h"
#include "net/unix_socket.h"

namespace baton::net {
namespace {

using std::chrono::milliseconds;

struct Written {
  std::string_view text;
  std::optional<uint16_t> default_port;
  std::optional<Address> address;  // nothing: refused
};

const std::vector<Written> kWritten = {
    {"localhost:80", {}, Address{"localhost", 80}},
    {"1.2.3.4:65535", {}, Address{"1.2.3.4", 65535}},
    {"[::1]:8000", {}, Address{"::1", 8000}},
    {"[fe80::1%lo]:1", {}, Address{"fe80::1%lo", 1}},
    {"my-host_1.svc.cluster.local:0", {}, Address{"my-host_1.svc.cluster.local", 0}},
    {"host", 80, Address{"host", 80}},
    {"host:81", 80, Address{"host", 81}},
    {"::1", 80, Address{"::1", 80}},
    {"[::1]", 80, Address{"::1", 80}},
    {"2001:db8::1", 80, Address{"2001:db8::1", 80}},
    {"host.:1", {}, Address{"host.", 1}},
    {"", {}, {}},
    {"", 80, {}},
    {":80", {}, {}},
    {"host", {}, {}},
    {"host:", {}, {}},
    {"host:", 80, {}},
    {"host:65536", {}, {}},
    {"host:-1", {}, {}},
    {"host:+1", {}, {}},
    {"host:1x", {}, {}},
    {"host: 1", {}, {}},
    {"ho st:1", {}, {}},
    {"host/path:1", {}, {}},
    {"http://host:80", {}, {}},
    {"user@host:80", {}, {}},
    {"::1", {}, {}},
    {"::1:80", {}, {}},
    {"[::1", 80, {}},
    {"[::1]80", 80, {}},
    {"[::1]:", 80, {}},
    {"[1.2.3.4]:80", {}, {}},
    {"[host]:80", {}, {}},
    {"[]:80", {}, {}},
    {"1.2.3:80", {}, {}},
    {"1.2.3.4.5:80", {}, {}},
    {"10.0.0.110.0.0.2:80", {}, {}},  // a list whose separator was lost
    {"a..b:80", {}, {}},
    {"-host:80", {}, {}},
    {"[fe80::1%no-such-interface]:1", {}, {}},
};

TEST(ParseAddress, TakesWhatPeopleWriteAndRefusesTheRest) {
  for (const Written& row : kWritten) {
    const Result<Address> parsed = parse_address(row.text, row.default_port);
    ASSERT_EQ(parsed.has_value(), row.address.has_value()) << row.text;
    if (!parsed) {
      EXPECT_EQ(parsed.error().code, Code::kInvalid);
      EXPECT_NE(parsed.error().message.find("expected"), std::string::npos) << parsed.error().message;
      continue;
    }
    EXPECT_EQ(*parsed, *row.address) << row.text;
    EXPECT_EQ(parse_address(to_string(*parsed)).value(), *parsed) << row.text;
  }
  EXPECT_FALSE(parse_address(std::string(254, 'a') + ":1").has_value());
  EXPECT_FALSE(parse_address(std::string_view("a\0b:1", 5)).has_value());
  EXPECT_FALSE(parse_address("fe80::1%lo::1]x", 80).has_value()) << "the kernel takes lo:anything for lo";
}

TEST(Endpoint, KnowsLoopbackAndWildcard) {
  const std::map<std::string, std::pair<bool, bool>> rows = {
      {"127.0.0.1", {true, false}}, {"127.9.9.9", {true, false}},        {"::1", {true, false}},
      {"0.0.0.0", {false, true}},   {"::ffff:127.0.0.1", {true, false}}, {"::", {false, true}},
      {"10.0.0.1", {false, false}}, {"::ffff:0.0.0.0", {false, true}},   {"128.0.0.1", {false, false}},
      {"::2", {false, false}},
  };
  for (const auto& [host, expected] : rows) {
    const auto endpoint = literal_endpoint(host, 7);
    ASSERT_TRUE(endpoint.has_value()) << host;
    EXPECT_EQ(is_loopback(*endpoint), expected.first) << host;
    EXPECT_EQ(is_wildcard(host), expected.second) << host;
    EXPECT_EQ(endpoint->port(), 7);
  }
  EXPECT_FALSE(is_wildcard("localhost"));
  EXPECT_FALSE(is_loopback(Endpoint{}));
}

TEST(Listen, NamesWhoHoldsATakenPort) {
  const auto first = listen({"127.0.0.1", 0});
  ASSERT_TRUE(first.has_value()) << first.error().message;
  const uint16_t port = first->local.port();
  ASSERT_NE(port, 0);
  const auto second = listen({"127.0.0.1", port});
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code, Code::kUnavailable);
  const std::string& message = second.error().message;
  EXPECT_NE(message.find("port " + std::to_string(port)), std::string::npos) << message;
  EXPECT_NE(message.find("pid " + std::to_string(getpid())), std::string::npos) << message;
  EXPECT_FALSE(listen({"192.0.2.1", 0}).has_value()) << "an address of another machine";
  EXPECT_TRUE(describe_port_holder(1).empty());
}

TEST(Listen, TakesAPortAgainWhoseConnectionsLinger) {
  auto listener = listen({"127.0.0.1", 0});
  ASSERT_TRUE(listener.has_value());
  const Endpoint at = listener->local;
  auto client = connect(at, std::chrono::seconds(5));
  ASSERT_TRUE(client.has_value());
  Fd server(accept(listener->fd.get(), nullptr, nullptr));
  ASSERT_TRUE(server);
  // The server closes first: its side stays in TIME_WAIT.
  server.reset();
  client->reset();
  listener->fd.reset();
  EXPECT_TRUE(listen(to_address(at)).has_value());
}

TEST(Connect, SetsNoDelayAndSaysWhatFailed) {
  auto listener = listen({"127.0.0.1", 0});
  ASSERT_TRUE(listener.has_value());
  const Address at = to_address(listener->local);
  const auto fd = connect(at, std::chrono::seconds(5));
  ASSERT_TRUE(fd.has_value());
  int value = 0;
  socklen_t size = sizeof(value);
  ASSERT_EQ(getsockopt(fd->get(), IPPROTO_TCP, TCP_NODELAY, &value, &size), 0);
  EXPECT_EQ(value, 1);
  EXPECT_EQ(fcntl(fd->get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(peer_endpoint(fd->get()).port(), at.port);

  listener->fd.reset();
  const auto refused = connect(at, std::chrono::seconds(5));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Code::kUnavailable);
  EXPECT_NE(refused.error().message.find(to_string(at)), std::string::npos);
}

TEST(Connect, GivesUpWhenNobodyAnswers) {
  // A listener with a full queue drops what else comes.
  auto listener = listen({"127.0.0.1", 0}, 0);
  ASSERT_TRUE(listener.has_value());
  std::vector<Fd> held;
  Code code = Code::kInvalid;
  for (int i = 0; i < 50; ++i) {
    auto fd = connect(listener->local, milliseconds(30));
    if (!fd) {
      code = fd.error().code;
      break;
    }
    held.push_back(std::move(*fd));
  }
  EXPECT_EQ(code, Code::kTimeout);
}

TEST(AdvertiseHost, FollowsItsOrderAndIsNeverAWildcard) {
  using Variables = std::map<std::string, std::string>;
  struct Row {
    Variables variables;
    std::optional<std::string> host;
  };
  const std::vector<Row> rows = {
      {{{"VLLM_HOST_IP", "10.1.1.1"}, {"HCCL_IF_IP", "10.2.2.2"}, {"GLOO_SOCKET_IFNAME", "lo"}}, "10.1.1.1"},
      {{{"HCCL_IF_IP", "10.2.2.2"}, {"GLOO_SOCKET_IFNAME", "lo"}}, "10.2.2.2"},
      {{{"GLOO_SOCKET_IFNAME", "lo"}}, "127.0.0.1"},
      {{{"GLOO_SOCKET_IFNAME", "nope0,lo"}}, "127.0.0.1"},
      {{{"VLLM_HOST_IP", "fd00::1"}}, "fd00::1"},
      {{{"VLLM_HOST_IP", "node-7.rack"}}, "node-7.rack"},
      {{{"VLLM_HOST_IP", "0.0.0.0"}}, {}},
      {{{"HCCL_IF_IP", "::"}}, {}},
      {{{"VLLM_HOST_IP", "not a host"}}, {}},
      {{{"GLOO_SOCKET_IFNAME", "nope0"}}, {}},
  };
  for (const Row& row : rows) {
    const auto host = advertise_host([&](const char* name) -> std::optional<std::string> {
      const auto found = row.variables.find(name);
      if (found == row.variables.end()) return std::nullopt;
      return found->second;
    });
    ASSERT_EQ(host.has_value(), row.host.has_value()) << row.variables.begin()->second;
    if (host) {
      EXPECT_EQ(*host, *row.host);
    } else {
      EXPECT_NE(host.error().message.find(row.variables.begin()->first), std::string::npos)
          << host.error().message;
    }
  }
  const auto by_route = advertise_host([](const char*) { return std::nullopt; });
  ASSERT_TRUE(by_route.has_value());
  EXPECT_FALSE(is_wildcard(*by_route));
  EXPECT_TRUE(is_local_host(*by_route)) << *by_route;
  EXPECT_FALSE(is_local_host("192.0.2.1"));
}

class UnixSocketTest : public testing::TestWithParam<bool> {
 protected:
  std::string name() const {
    const std::string own = "baton-net-test-" + std::to_string(getpid());
    return GetParam() ? "@" + own : testing::TempDir() + own;
  }
  ~UnixSocketTest() override {
    if (!GetParam()) unlink(name().c_str());
  }
};

TEST_P(UnixSocketTest, HandsOverADescriptor) {
  const auto listener = listen_unix(name());
  ASSERT_TRUE(listener.has_value()) << listener.error().message;
  EXPECT_FALSE(accept_unix(listener->get()).has_value()) << "nobody waits yet";
  const auto client = connect_unix(name());
  ASSERT_TRUE(client.has_value()) << client.error().message;
  const auto server = accept_unix(listener->get());
  ASSERT_TRUE(server.has_value());
  EXPECT_EQ(peer_credentials(server->get())->pid, getpid());

  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  const Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  const std::string message = "with a descriptor";
  ASSERT_TRUE(send_with_fd(client->get(), std::as_bytes(std::span(message)), write_end.get()).has_value());
  write_end.reset();
  std::string got(message.size(), '\0');
  auto passed = receive_with_fd(server->get(), std::as_writable_bytes(std::span(got)));
  ASSERT_TRUE(passed.has_value()) << passed.error().message;
  EXPECT_EQ(got, message);
  ASSERT_EQ(write(passed->get(), "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(read(read_end.get(), &byte, 1), 1);
  EXPECT_NE(fcntl(passed->get(), F_GETFD) & FD_CLOEXEC, 0);

  // Bytes without a descriptor, then the end.
  ASSERT_EQ(send(client->get(), "ab", 2, 0), 2);
  std::array<std::byte, 2> two{};
  const auto none = receive_with_fd(server->get(), two);
  ASSERT_TRUE(none.has_value());
  EXPECT_FALSE(*none);
  shutdown(client->get(), SHUT_RDWR);
  EXPECT_EQ(receive_with_fd(server->get(), two).error().code, Code::kUnavailable);
}

TEST_P(UnixSocketTest, RefusesANameInUseAndReplacesOneLeftBehind) {
  auto listener = listen_unix(name());
  ASSERT_TRUE(listener.has_value());
  EXPECT_EQ(listen_unix(name()).error().code, Code::kUnavailable);
  listener->reset();
  EXPECT_TRUE(listen_unix(name()).has_value());
  EXPECT_EQ(listen_unix(std::string(200, 'x')).error().code, Code::kInvalid);
  EXPECT_EQ(listen_unix("").error().code, Code::kInvalid);
}

INSTANTIATE_TEST_SUITE_P(Names, UnixSocketTest, testing::Values(true, false),
                         [](const auto& row) { return row.param ? "Abstract" : "Path"; });

}  // namespace
}  // namespace baton::net
