#include "serve/serve.h"

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <thread>

#include "api/limits.h"
#include "base/log.h"
#include "http/server.h"
#include "net/socket.h"
#include "options/help.h"
#include "options/serve_options.h"
#include "serve/desk.h"
#include "serve/loaded_instance.h"
#include "serve/metaserver.h"
#include "serve/routes.h"
#include "traces/exporter.h"

namespace baton::serve {
namespace {

constexpr Duration kDrainLimit = std::chrono::seconds(30);

// The door and what is behind it, on the io thread.
class Instance {
 public:
  Instance(const options::ServeOptions& options, net::Listener listener)
      : options_(options),
        server_(loop_, std::move(listener), {.body_bytes_max = api::kBodyBytesMax}, make_handler(desk_)) {
    desk_.loop = &loop_;
    desk_.options = &options_;
    desk_.seeds.seed(options.seed);
    desk_.client = &client_;
    desk_.metrics.model_name = options.served_model_names.front();
    desk_.metrics.block_tokens = options.block_size;
    desk_.metrics.prefix_caching = options.enable_prefix_caching;
    if (!options.otlp_traces) return;
    spans_.emplace(loop_, traces::exporter_options({options.otlp_traces->host, options.otlp_traces->port},
                                                   options.otlp_traces->target, options.service_name));
    desk_.spans = &*spans_;
  }

  int run();

 private:
  void load();
  void open(std::unique_ptr<LoadedInstance> loaded);
  void end(int signal);
  http::Awaitable<void> drain();

  // Sessions end with the loop; what they use outlives it.
  const options::ServeOptions& options_;
  Desk desk_;
  std::unique_ptr<LoadedInstance> loaded_;
  std::unique_ptr<EngineClient> engine_client_;
  http::IoLoop loop_;
  http::Client client_{loop_, {.body_bytes_max = kMetaserverAnswerBytesMax}};
  std::optional<traces::SpanExporter> spans_;
  http::Server server_;
  int exit_code_ = 0;
};

// The loader thread: everything slow happens here while the door answers 503.
void Instance::load() {
  auto deliver = [this](std::vector<engine::Answer> answers) {
    auto shared = std::make_shared<std::vector<engine::Answer>>(std::move(answers));
    loop_.post([this, shared] {
      if (engine_client_) engine_client_->deliver(std::move(*shared));
    });
  };
  auto loaded =
      std::make_shared<Result<std::unique_ptr<LoadedInstance>>>(LoadedInstance::load(options_, deliver));
  loop_.post([this, loaded] {
    if (*loaded) {
      open(std::move(**loaded));
      return;
    }
    fmt::print(stderr, "baton serve: {}\n", loaded->error().message);
    exit_code_ = 1;
    loop_.stop();
  });
}

void Instance::open(std::unique_ptr<LoadedInstance> loaded) {
  loaded_ = std::move(loaded);
  engine_client_ = std::make_unique<EngineClient>(
      loop_, [this](engine::Inbox item) { return loaded_->engine_thread().post(std::move(item)); });
  desk_.engine_thread = &loaded_->engine_thread();
  desk_.engine = engine_client_.get();
  desk_.advertised_host = loaded_->advertised_host();
  desk_.side_channel_port = loaded_->side_channel_port();
  desk_.model = &loaded_->model();
  log_info("serve",
           fmt::format("ready: {} on {}", desk_.model->names.front(), net::to_string(server_.local())));
}

http::Awaitable<void> Instance::drain() {
  const size_t cut = co_await server_.drain(kDrainLimit);
  if (cut > 0) log_warning("serve", fmt::format("{} requests were cut off", cut));
  if (spans_) {
    co_await spans_->flush(traces::kLastSpansLimit);
  }
  loop_.stop();
}

void Instance::end(int signal) {
  if (desk_.draining) std::_Exit(1);  // asked twice: at once
  desk_.draining = true;
  log_info("serve",
           fmt::format("signal {}: ending what runs, at most {:.0f} s", signal, seconds(kDrainLimit)));
  loop_.spawn("drain", drain());
}

int Instance::run() {
  server_.start();
  loop_.on_signal({SIGTERM, SIGINT}, [this](int signal) { end(signal); });
  std::thread loader([this] { load(); });
  loop_.run();
  loader.join();
  if (loaded_) loaded_->engine_thread().stop();  // no answer is posted to the loop any more
  return exit_code_;
}

}  // namespace

int run(std::span<const std::string> arguments) {
  const auto options = options::parse_serve(arguments, options::process_environment());
  if (!options) {
    fmt::print(stderr, "baton serve: {}\n", options.error().message);
    return 2;
  }
  if (options->help) {
    fmt::print("{}", options::help_text(options::serve_command()));
    return 0;
  }
  if (const auto supported = options::check_supported(*options); !supported) {
    fmt::print(stderr, "baton serve: {}\n", supported.error().message);
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  set_log_level(options->log_level);
  for (const std::string& notice : options->notices) log_warning("serve", notice);
  auto listener = net::listen({options->host, options->port});
  if (!listener) {
    fmt::print(stderr, "baton serve: {}\n", listener.error().message);
    return 1;
  }
  Instance instance(*options, std::move(*listener));
  return instance.run();
}

}  // namespace baton::serve
