#include <dirent.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "net/socket.h"
#include "proxy/bench_parts.h"

namespace baton::proxy::bench {
namespace {

constexpr size_t kReadBytes = 16UL << 10;
constexpr int kEventsPerWait = 64;

// CPU of all threads so far: the first number of /proc/PID/task/TID/schedstat is nanoseconds on a core.
Duration cpu_of(pid_t pid) {
  int64_t total = 0;
  const std::string folder = fmt::format("/proc/{}/task", pid);
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(opendir(folder.c_str()), closedir);
  while (tasks != nullptr) {
    const dirent* entry = readdir(tasks.get());
    if (entry == nullptr) break;
    if (entry->d_name[0] == '.') continue;
    int64_t on_core = 0;
    std::ifstream(fmt::format("{}/{}/schedstat", folder, entry->d_name)) >> on_core;
    total += on_core;
  }
  return Duration(total);
}

// One answer at a time: head, then a body with a length or in chunks. Counts the events as they arrive.
class AnswerReader {
 public:
  void reset() { *this = AnswerReader(); }

  // Takes what it can from the front of `in`. True when the answer is whole.
  bool take(std::string& in) {
    size_t used = 0;
    while (!over_ && step(std::string_view(in).substr(used), used)) {
    }
    in.erase(0, used);
    return over_;
  }
  int status() const { return status_; }
  size_t events() const { return events_; }
  // When the events were sent that came since the last call (kStampDigits), in nanoseconds.
  std::vector<int64_t> take_stamps() { return std::exchange(stamps_, {}); }

 private:
  bool step(std::string_view in, size_t& used) {
    if (status_ == 0) return read_head(in, used);
    if (!is_chunked_) return read_body(in, used);
    return read_chunk(in, used);
  }

  bool read_head(std::string_view in, size_t& used) {
    const size_t end = in.find("\r\n\r\n");
    if (end == std::string_view::npos) return false;
    std::string head(in.substr(0, end));
    std::ranges::transform(head, head.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
    std::from_chars(head.data() + sizeof("http/1.1"), head.data() + head.size(), status_);
    is_chunked_ = head.find("\r\ntransfer-encoding: chunked") != std::string::npos;
    constexpr std::string_view kLength = "\r\ncontent-length: ";
    const size_t at = head.find(kLength);
    if (at != std::string::npos)
      std::from_chars(head.data() + at + kLength.size(), head.data() + head.size(), body_left_);
    used += end + 4;
    return true;
  }

  bool read_body(std::string_view in, size_t& used) {
    const size_t taken = std::min(in.size(), body_left_);
    count(in.substr(0, taken));
    used += taken;
    body_left_ -= taken;
    over_ = body_left_ == 0;
    return false;
  }

  bool read_chunk(std::string_view in, size_t& used) {
    const size_t line = in.find("\r\n");
    if (line == std::string_view::npos) return false;
    size_t size = 0;
    std::from_chars(in.data(), in.data() + line, size, 16);
    if (in.size() < line + 2 + size + 2) return false;
    count(in.substr(line + 2, size));
    used += line + 2 + size + 2;
    over_ = size == 0;
    return true;
  }

  void count(std::string_view bytes) {
    for (const char c : bytes) {
      if (c == '\n' && before_ == '\n') ++events_;
      before_ = c;
    }
    constexpr std::string_view kStamp = "\"sent_ns\":\"";
    for (size_t at = bytes.find(kStamp); at != std::string_view::npos; at = bytes.find(kStamp, at + 1)) {
      const std::string_view digits = bytes.substr(at + kStamp.size(), kStampDigits);
      int64_t stamp = 0;
      std::from_chars(digits.data(), digits.data() + digits.size(), stamp);
      if (digits.size() == kStampDigits) stamps_.push_back(stamp);
    }
  }

  int status_ = 0;  // 0: the head is not here yet
  bool is_chunked_ = false;
  bool over_ = false;
  size_t body_left_ = 0;
  size_t events_ = 0;
  std::vector<int64_t> stamps_;
  char before_ = 0;
};

struct Connection {
  net::Fd fd;
  std::string in;
  AnswerReader reader;
  Time sent;
  size_t events_counted = 0;
};

struct Counts {
  uint64_t requests = 0;
  uint64_t events = 0;
  uint64_t failures = 0;
  std::vector<double> whole_us;
  std::vector<double> first_us;
  std::vector<double> event_us;
};

double percentile(std::vector<double>& values, double share) {
  if (values.empty()) return 0;
  const auto at = static_cast<size_t>(share * static_cast<double>(values.size() - 1));
  std::ranges::nth_element(values, values.begin() + static_cast<ptrdiff_t>(at));
  return values[at];
}

class Generator {
 public:
  explicit Generator(const Load& load)
      : load_(load),
        epoll_(epoll_create1(EPOLL_CLOEXEC)),
        request_(fmt::format("POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                             "Content-Length: {}\r\n\r\n{}",
                             load.path, load.body.size(), load.body)),
        connections_(load.connections) {}

  bool run() {
    for (size_t i = 0; i < connections_.size(); ++i) {
      if (!open(i)) return false;
    }
    pass(load_.warm);
    counts_ = Counts{};
    const Time begin = clock_.now();
    const Duration cpu_before = cpu_of(load_.relay);
    pass(load_.measure);
    const Duration cpu = cpu_of(load_.relay) - cpu_before;
    print(clock_.now() - begin, cpu);
    return true;
  }

 private:
  bool open(size_t index) {
    auto fd = net::connect(net::Address{"127.0.0.1", load_.port}, std::chrono::seconds(1));
    if (!fd) {
      fmt::print(stderr, "bench_proxy: {}\n", fd.error().message);
      return false;
    }
    Connection& connection = connections_[index];
    connection.fd = std::move(*fd);
    connection.in.clear();
    epoll_event event{.events = EPOLLIN, .data = {.u64 = index}};
    CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connection.fd.get(), &event) == 0);
    ask(connection);
    return true;
  }

  void ask(Connection& connection) {
    connection.reader.reset();
    connection.events_counted = 0;
    connection.sent = clock_.now();
    send(connection.fd.get(), request_.data(), request_.size(), MSG_NOSIGNAL);
  }

  void pass(Duration time) {
    const Time end = clock_.now() + time;
    std::array<epoll_event, kEventsPerWait> ready{};
    while (clock_.now() < end) {
      const int count = epoll_wait(epoll_.get(), ready.data(), kEventsPerWait, 10);
      for (int i = 0; i < count; ++i) read(ready[static_cast<size_t>(i)].data.u64);
    }
  }

  void read(size_t index) {
    Connection& connection = connections_[index];
    const size_t had = connection.in.size();
    connection.in.resize(had + kReadBytes);
    const ssize_t got = recv(connection.fd.get(), connection.in.data() + had, kReadBytes, MSG_DONTWAIT);
    connection.in.resize(had + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got == 0 || (got < 0 && errno != EAGAIN)) {
      ++counts_.failures;
      CHECK(open(index), "the relay is gone");
      return;
    }
    const bool over = connection.reader.take(connection.in);
    const Time now = clock_.now();
    const double since_us = seconds(now - connection.sent) * 1e6;
    for (const int64_t sent : connection.reader.take_stamps())
      counts_.event_us.push_back(static_cast<double>(now.since_start.count() - sent) / 1e3);
    const size_t events = connection.reader.events();
    if (events > 0 && connection.events_counted == 0) counts_.first_us.push_back(since_us);
    counts_.events += events - connection.events_counted;
    connection.events_counted = events;
    if (!over) return;
    ++counts_.requests;
    if (connection.reader.status() != 200) ++counts_.failures;
    counts_.whole_us.push_back(since_us);
    if (!load_.in_bursts) return ask(connection);
    if (++answered_ < connections_.size()) return;
    answered_ = 0;
    for (Connection& each : connections_) ask(each);
  }

  void print(Duration taken, Duration cpu) {
    fmt::print(
        "{{\"requests\":{},\"events\":{},\"failures\":{},\"seconds\":{:.6f},\"cpu_s\":{:.6f},"
        "\"whole_p50_us\":{:.1f},\"whole_p99_us\":{:.1f},\"first_p50_us\":{:.1f},"
        "\"event_p50_us\":{:.1f},\"event_p99_us\":{:.1f}}}\n",
        counts_.requests, counts_.events, counts_.failures, seconds(taken), seconds(cpu),
        percentile(counts_.whole_us, 0.5), percentile(counts_.whole_us, 0.99),
        percentile(counts_.first_us, 0.5), percentile(counts_.event_us, 0.5),
        percentile(counts_.event_us, 0.99));
  }

  const Load& load_;
  net::Fd epoll_;
  SteadyClock clock_;
  std::string request_;
  std::vector<Connection> connections_;
  size_t answered_ = 0;  // of a burst
  Counts counts_;
};

}  // namespace

int run_load(const Load& load) { return Generator(load).run() ? 0 : 1; }

}  // namespace baton::proxy::bench
