// CPU that a relay spends per request and per event: a server and a client of this room in one thread,
// between a load generator and an engine on another. `cpu_us` is the relay thread's own time
// (CLOCK_THREAD_CPUTIME_ID).
#include <benchmark/benchmark.h>
#include <time.h>

#include <functional>
#include <memory>
#include <vector>

#include "http/client.h"
#include "http/server.h"
#include "http/sse.h"
#include "http/testing.h"

namespace baton::http {
namespace {

constexpr size_t kConnections = 32;

double thread_cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

net::Listener listener() {
  auto made = net::listen({"127.0.0.1", 0});
  CHECK(made.has_value());
  return std::move(*made);
}

Awaitable<void> engine(Request& request, ResponseWriter& writer) {
  const size_t events = std::stoul(request.query_value("events").value_or("0"));
  if (events == 0) {
    writer.send(200, "application/json", std::string(300, 'x'));
    co_return;
  }
  writer.start_stream(200, kEventStream);
  const std::string event = render_event(std::string(200, 'e'));
  for (size_t i = 0; i < events; ++i) {
    const Result<void> written = co_await writer.write(event);
    if (!written) co_return;
  }
  writer.append(kDoneEvent);
}

// One leg whole, one leg as a stream: what a prefill/decode proxy does.
Awaitable<void> relay(Client& client, net::Address to, Request& request, ResponseWriter& writer) {
  ClientRequest prefill;
  prefill.to = to;
  prefill.method = "POST";
  prefill.body = request.body;
  const Result<Response> prefilled = co_await client.request(std::move(prefill));
  if (!prefilled) co_return;
  ClientRequest decode;
  decode.to = to;
  decode.method = "POST";
  decode.target = request.target;
  decode.body = std::move(request.body);
  Result<ResponseStream> stream = co_await client.open(std::move(decode));
  if (!stream) co_return;
  writer.start_stream(stream->status(), kEventStream);
  SseParser parser;
  while (true) {
    const Result<std::string_view> piece = co_await stream->read();
    if (!piece || piece->empty()) co_return;
    const Result<void> fed = parser.feed(*piece);
    if (!fed) co_return;
    while (const auto event = parser.next()) {
      const Result<void> written = co_await writer.write(event->raw);
      if (!written) co_return;
    }
  }
}

Awaitable<void> load(Client& client, net::Address to, std::string target, size_t requests) {
  for (size_t i = 0; i < requests; ++i) {
    ClientRequest request;
    request.to = to;
    request.method = "POST";
    request.target = target;
    request.body = std::string(512, 'p');
    const Result<Response> response = co_await client.request(std::move(request));
    CHECK(response.has_value() && response->status == 200, "{}", response ? "" : response.error().message);
  }
}

void BM_Relay(benchmark::State& state) {
  const auto events = static_cast<size_t>(state.range(0));
  LoopThread outside;
  LoopThread middle;
  auto engine_server = std::make_unique<Server>(outside.loop(), listener(), ServerOptions{}, engine);
  const net::Address engine_at = net::to_address(engine_server->local());
  auto load_client = std::make_unique<Client>(outside.loop(), ClientOptions{});
  auto relay_client = std::make_unique<Client>(middle.loop(), ClientOptions{});
  auto relay_server = std::make_unique<Server>(middle.loop(), listener(), ServerOptions{},
                                               [&](Request& request, ResponseWriter& writer) {
                                                 return relay(*relay_client, engine_at, request, writer);
                                               });
  const net::Address relay_at = net::to_address(relay_server->local());
  outside.call([&] { engine_server->start(); });
  middle.call([&] { relay_server->start(); });

  const size_t each = events > 1 ? 8 : 64;
  const std::string target = "/?events=" + std::to_string(events);
  double cpu_seconds = 0;
  size_t requests = 0;
  for (auto _ : state) {
    const double before = middle.call(thread_cpu_seconds);
    std::vector<std::promise<void>> done(kConnections);
    for (auto& one : done) {
      outside.call([&] {
        outside.loop().spawn("load", load(*load_client, relay_at, target, each), [&] { one.set_value(); });
      });
    }
    for (auto& one : done) one.get_future().get();
    cpu_seconds += middle.call(thread_cpu_seconds) - before;
    requests += each * kConnections;
  }
  const double per_request = 1e6 * cpu_seconds / static_cast<double>(requests);
  state.counters["cpu_us_per_request"] = per_request;
  state.counters["cpu_us_per_event"] = per_request / static_cast<double>(events);
  outside.call([&] { load_client.reset(); });
  middle.call([&] { relay_server.reset(); });
  middle.call([&] { relay_client.reset(); });
  outside.call([&] { engine_server.reset(); });
}
BENCHMARK(BM_Relay)->Arg(1)->Arg(128)->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_SseParse(benchmark::State& state) {
  const std::string stream = [] {
    std::string events;
    for (int i = 0; i < 8; ++i) append_event(events, std::string(200, 'e'));
    return events;
  }();
  size_t events = 0;
  SseParser parser;
  for (auto _ : state) {
    benchmark::DoNotOptimize(parser.feed(stream));
    while (const auto event = parser.next()) events += event->has_data ? 1 : 0;
  }
  state.SetItemsProcessed(static_cast<int64_t>(events));
}
BENCHMARK(BM_SseParse);

}  // namespace
}  // namespace baton::http
