#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/check.h"
#include "net/socket.h"
#include "proxy/bench_parts.h"

namespace baton::proxy::bench {
namespace {

constexpr size_t kReadBytes = 16UL << 10;
constexpr int kEventsPerWait = 64;

constexpr std::string_view kModels = R"({"object":"list","data":[{"id":"fake","object":"model"}]})";
constexpr std::string_view kWhole =
    R"({"id":"cmpl-0123456789abcdef0123456789abcdef","object":"text_completion","created":1700000000,)"
    R"("model":"fake","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":"length"}],)"
    R"("usage":{"prompt_tokens":128,"completion_tokens":1,"total_tokens":129},"kv_transfer_params":)"
    R"({"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[1,2,3,4,5,6,7,8]],)"
    R"("remote_engine_id":"fake","remote_host":"127.0.0.1","remote_port":5600,)"
    R"("remote_request_id":"cmpl-0123456789abcdef0123456789abcdef","last_token_id":42}})";
constexpr std::string_view kEvent =
    R"(data: {"id":"cmpl-0123456789abcdef0123456789abcdef","object":"text_completion","created":1700000000,)"
    R"("model":"fake","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null}],)"
    R"("sent_ns":")";
constexpr std::string_view kStreamHead =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
constexpr std::string_view kStreamEnd = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

std::string whole(std::string_view body) {
  return fmt::format("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
                     body.size(), body);
}

int64_t number_after(std::string_view text, std::string_view key, int64_t otherwise) {
  const size_t at = text.find(key);
  if (at == std::string_view::npos) return otherwise;
  int64_t value = otherwise;
  std::from_chars(text.data() + at + key.size(), text.data() + text.size(), value);
  return value;
}

struct Connection {
  net::Fd fd;
  std::string in;
  int64_t events_left = -1;  // of a stream; 0: only [DONE] is left; -1: no stream
  Duration gap{0};
  Time next;
};

class Engine {
 public:
  explicit Engine(net::Listener listener)
      : listener_(std::move(listener)),
        epoll_(epoll_create1(EPOLL_CLOEXEC)),
        prefill_(whole(kWhole)),
        models_(whole(kModels)) {
    watch(listener_.fd.get());
  }

  [[noreturn]] void run() {
    std::array<epoll_event, kEventsPerWait> ready{};
    while (true) {
      const timespec wait = until_next_event();
      const int count = epoll_pwait2(epoll_.get(), ready.data(), kEventsPerWait, &wait, nullptr);
      for (int i = 0; i < count; ++i) {
        const int fd = ready[static_cast<size_t>(i)].data.fd;
        if (fd == listener_.fd.get()) {
          accept_all();
        } else {
          read(fd);
        }
      }
      send_due_events();
    }
  }

 private:
  void watch(int fd) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0);
  }

  void accept_all() {
    while (true) {
      net::Fd fd(accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!fd) return;
      net::set_no_delay(fd.get());
      watch(fd.get());
      const int key = fd.get();
      connections_[key].fd = std::move(fd);
    }
  }

  timespec until_next_event() const {
    Duration wait = std::chrono::seconds(1);
    const Time now = clock_.now();
    for (const auto& [fd, connection] : connections_) {
      if (connection.events_left >= 0) wait = std::min(wait, std::max(connection.next - now, Duration(0)));
    }
    return {.tv_sec = wait.count() / 1'000'000'000, .tv_nsec = wait.count() % 1'000'000'000};
  }

  void send_due_events() {
    const Time now = clock_.now();
    for (auto& [fd, connection] : connections_) {
      if (connection.events_left < 0 || connection.next > now) continue;
      put(connection, connection.events_left == 0 ? kStreamEnd : event());
      --connection.events_left;
      // The last event and [DONE] are of one step.
      if (connection.events_left > 0) connection.next = connection.next + connection.gap;
    }
  }

  // One event that says when it was sent.
  std::string_view event() {
    constexpr std::string_view kEnd = "\"}\n\n";
    constexpr size_t kBytes = kEvent.size() + kStampDigits + kEnd.size();
    event_.clear();
    fmt::format_to(std::back_inserter(event_), "{:x}\r\n{}{:0{}}{}\r\n", kBytes, kEvent,
                   clock_.now().since_start.count(), kStampDigits, kEnd);
    return event_;
  }

  // The sockets block: what is written is far smaller than their buffers.
  static void put(const Connection& connection, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(connection.fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;  // the peer left; read() sees it
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }

  void read(int fd) {
    Connection& connection = connections_.at(fd);
    const size_t had = connection.in.size();
    connection.in.resize(had + kReadBytes);
    const ssize_t got = recv(fd, connection.in.data() + had, kReadBytes, MSG_DONTWAIT);
    connection.in.resize(had + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got == 0 || (got < 0 && errno != EAGAIN)) {
      connections_.erase(fd);
      return;
    }
    answer(connection);
  }

  void answer(Connection& connection) {
    const size_t head_end = connection.in.find("\r\n\r\n");
    if (head_end == std::string::npos) return;
    std::string head = connection.in.substr(0, head_end);
    std::ranges::transform(head, head.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
    const auto length = static_cast<size_t>(number_after(head, "\r\ncontent-length: ", 0));
    if (connection.in.size() < head_end + 4 + length) return;
    const std::string body = connection.in.substr(head_end + 4, length);
    connection.in.erase(0, head_end + 4 + length);
    if (head.starts_with("get")) {
      put(connection, models_);
    } else if (body.find(R"("do_remote_decode":true)") == std::string::npos &&
               body.find(R"("stream":true)") != std::string::npos) {
      begin_stream(connection, body);
    } else {
      put(connection, prefill_);
    }
  }

  void begin_stream(Connection& connection, std::string_view body) {
    put(connection, kStreamHead);
    connection.events_left = number_after(body, R"("max_tokens":)", 1);
    connection.gap = std::chrono::microseconds(number_after(body, R"("gap_us":)", 0));
    connection.next = clock_.now();
    if (connection.gap.count() == 0) return;
    const auto now = connection.next.since_start;
    connection.next = Time{now - now % connection.gap + connection.gap};
  }

  net::Listener listener_;
  net::Fd epoll_;
  SteadyClock clock_;
  std::string event_;
  std::string prefill_;
  std::string models_;
  std::unordered_map<int, Connection> connections_;
};

}  // namespace

int run_engine(uint16_t port) {
  auto listener = net::listen({"127.0.0.1", port});
  if (!listener) {
    fmt::print(stderr, "bench_proxy: {}\n", listener.error().message);
    return 1;
  }
  Engine(std::move(*listener)).run();
}

}  // namespace baton::proxy::bench
