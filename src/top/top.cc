#include "top/top.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <utility>
#include <vector>

#include "base/log.h"
#include "http/client.h"
#include "http/io_loop.h"
#include "http/wake.h"
#include "options/help.h"
#include "options/proxy_options.h"
#include "options/tool_options.h"
#include "top/table.h"
#include "top/views.h"

namespace baton::top {
namespace {

constexpr Duration kPause = std::chrono::seconds(1);
constexpr Duration kPatience = std::chrono::seconds(2);  // with one answer: frozen instances hold nobody up
constexpr std::string_view kClearScreen = "\x1b[H\x1b[2J";

class Top {
 public:
  Top(http::IoLoop& loop, const options::TopOptions& options)
      : loop_(loop),
        options_(options),
        client_(loop, {.connect_timeout = kPatience, .body_bytes_max = kViewBytesMax}),
        proxy_{options.proxy.host, options.proxy.port} {}

  http::Awaitable<void> run();
  int status() const { return status_; }

 private:
  http::Awaitable<Result<std::string>> debug_requests(net::Address from);
  http::Awaitable<Result<Cluster>> look();
  http::Awaitable<void> ask(Asked& asked, size_t& open, http::Wake& all);
  void show(const Result<Cluster>& cluster);

  http::IoLoop& loop_;
  const options::TopOptions& options_;
  http::Client client_;
  net::Address proxy_;
  int status_ = 0;
};

http::Awaitable<Result<std::string>> Top::debug_requests(net::Address from) {
  http::ClientRequest request{.to = std::move(from),
                              .target = "/debug/requests",
                              .headers = {},
                              .body = {},
                              .head_timeout = kPatience,
                              .idle_timeout = kPatience};
  if (!options_.admin_key.empty()) request.headers.add("Authorization", "Bearer " + options_.admin_key);
  auto answer = co_await client_.request(std::move(request));
  if (!answer) co_return Failure(answer.error());
  if (answer->status == 401) {
    co_return fail(Code::kDenied, fmt::format("GET /debug/requests answers 401, expected {} --admin-key",
                                              options_.admin_key.empty() ? "an" : "another"));
  }
  if (answer->status != 200)
    co_return fail(Code::kUnavailable,
                   fmt::format("GET /debug/requests answers {}, expected 200", answer->status));
  co_return std::move(answer->body);
}

http::Awaitable<void> Top::ask(Asked& asked, size_t& open, http::Wake& all) {
  const auto address = options::parse_endpoint(asked.instance.address);
  if (!address) {
    asked.requests = Failure(address.error());
  } else {
    net::Address from{address->host, address->port};
    const auto text = co_await debug_requests(std::move(from));
    asked.requests =
        text ? parse_instance_view(*text) : Result<std::vector<InstanceRequest>>(Failure(text.error()));
  }
  if (--open == 0) all.notify();
}

// The instances are asked side by side, so that the slowest is all that a look waits for.
http::Awaitable<Result<Cluster>> Top::look() {
  const auto text = co_await debug_requests(proxy_);
  if (!text) co_return Failure(text.error());
  auto view = parse_proxy_view(*text);
  if (!view) co_return Failure(view.error());
  Cluster cluster{.proxy = options::endpoint_text(options_.proxy), .view = *std::move(view), .instances = {}};
  for (const KnownInstance& known : cluster.view.instances)
    cluster.instances.push_back({known, std::vector<InstanceRequest>()});
  http::Wake all(loop_);
  size_t open = 1;
  for (Asked& asked : cluster.instances) {
    if (!asked.instance.is_baton) continue;
    ++open;
    loop_.spawn("top", ask(asked, open, all));
  }
  if (--open > 0) {
    const auto woken = co_await all.wait();
    if (!woken) co_return Failure(woken.error());
  }
  co_return cluster;
}

void Top::show(const Result<Cluster>& cluster) {
  if (!cluster) {
    status_ = 1;
    fmt::print(stderr, "baton top: {}: {}\n", options::endpoint_text(options_.proxy),
               cluster.error().message);
    return;
  }
  status_ = 0;
  const bool clears = !options_.once && !options_.json && isatty(STDOUT_FILENO) == 1;
  fmt::print("{}{}", clears ? kClearScreen : "",
             options_.json ? render_json(*cluster) + '\n' : render_table(*cluster));
  std::fflush(stdout);
}

http::Awaitable<void> Top::run() {
  while (true) {
    const auto cluster = co_await look();
    show(cluster);
    if (options_.once) break;
    const auto slept = co_await loop_.sleep(kPause);
    if (!slept) break;
  }
  loop_.stop();
}

}  // namespace

int run(std::span<const std::string> arguments) {
  const auto options = options::parse_top(arguments, options::process_environment());
  if (!options) {
    fmt::print(stderr, "baton top: {}\n", options.error().message);
    return 2;
  }
  if (options->help) {
    fmt::print("{}", options::help_text(options::top_command()));
    return 0;
  }
  http::IoLoop loop;
  Top top(loop, *options);
  loop.on_signal({SIGTERM, SIGINT}, [&](int) { loop.stop(); });
  loop.spawn("top", top.run());
  loop.run();
  return top.status();
}

}  // namespace baton::top
