// For tests: a loop on a thread of its own, and a client that sends raw bytes and waits for raw bytes.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <future>
#include <string>
#include <string_view>
#include <thread>

#include "base/check.h"
#include "http/io_loop.h"
#include "net/socket.h"

namespace baton::http {

class LoopThread {
 public:
  LoopThread() : thread_([this] { loop_.run(); }) {}
  ~LoopThread() {
    loop_.stop();
    thread_.join();
  }

  IoLoop& loop() { return loop_; }

  // Runs `task` on the io thread and waits for its value.
  template <class Task>
  auto call(Task task) -> decltype(task()) {
    std::promise<decltype(task())> done;
    loop_.post([&] {
      if constexpr (std::is_void_v<decltype(task())>) {
        task();
        done.set_value();
      } else {
        done.set_value(task());
      }
    });
    return done.get_future().get();
  }

  // Runs a coroutine on the io thread and waits until it ends.
  void await(Awaitable<void> work) {
    std::promise<void> done;
    loop_.post([&] { loop_.spawn("test", std::move(work), [&] { done.set_value(); }); });
    done.get_future().get();
  }

 private:
  IoLoop loop_;
  std::thread thread_;
};

class RawClient {
 public:
  static constexpr Duration kPatience = std::chrono::seconds(20);

  explicit RawClient(const net::Endpoint& to) {
    auto fd = net::connect(to, kPatience);
    CHECK(fd.has_value(), "{}", fd.error().message);
    fd_ = std::move(*fd);
  }
  explicit RawClient(net::Fd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  void close() { fd_.reset(); }
  void end_sending() { ::shutdown(fd_.get(), SHUT_WR); }

  // False when the peer no longer takes them.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  // Bytes up to and with `mark`; all there are if the peer closes or nothing comes any more.
  std::string read_until(std::string_view mark) {
    while (true) {
      const size_t at = mark.empty() ? std::string::npos : held_.find(mark);
      if (at != std::string::npos) return take(at + mark.size());
      if (!read_more()) return take(held_.size());
    }
  }
  std::string read_to_end() { return read_until(""); }

  // `count` bytes, fewer if the peer closes or nothing comes any more.
  std::string read_exactly(size_t count) {
    while (held_.size() < count && read_more()) {
    }
    return take(count);
  }

  // One response with a Content-Length.
  std::string read_response() {
    std::string response = read_until("\r\n\r\n");
    constexpr std::string_view kLength = "Content-Length: ";
    const size_t at = response.find(kLength);
    if (at == std::string::npos) return response;
    const size_t length = std::stoul(response.substr(at + kLength.size()));
    return response + read_exactly(length);
  }

  bool at_end() const { return ended_; }

 private:
  std::string take(size_t count) {
    std::string taken = held_.substr(0, count);
    held_.erase(0, taken.size());
    return taken;
  }

  bool read_more() {
    pollfd waiting{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    const auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience);
    if (poll(&waiting, 1, static_cast<int>(patience.count())) <= 0) return false;
    char bytes[16 * 1024];
    const ssize_t got = recv(fd_.get(), bytes, sizeof(bytes), 0);
    if (got <= 0) {
      ended_ = true;
      return false;
    }
    held_.append(bytes, static_cast<size_t>(got));
    return true;
  }

  net::Fd fd_;
  std::string held_;
  bool ended_ = false;
};

}  // namespace baton::http
