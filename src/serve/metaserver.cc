#include "serve/metaserver.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace baton::serve {

Result<Metaserver> parse_metaserver(std::string_view url) {
  constexpr std::string_view kScheme = "http://";
  const auto refuse = [url](std::string_view why) {
    return fail(Code::kInvalid,
                fmt::format("kv_transfer_params.metaserver: {}: {}, expected http://host:port/path",
                            url.substr(0, 256), why),
                "kv_transfer_params");
  };
  if (!url.starts_with(kScheme)) return refuse("another scheme");
  const bool is_plain =
      std::ranges::all_of(url, [](unsigned char c) { return c > ' ' && c < 0x7f && c != '#'; });
  if (!is_plain) return refuse("a blank, a fragment or a character beyond ASCII");
  const std::string_view rest = url.substr(kScheme.size());
  const size_t slash = std::min(rest.find_first_of("/?"), rest.size());
  const auto at = net::parse_address(rest.substr(0, slash), 80);
  if (!at) return refuse("no host");
  std::string target(rest.substr(slash));
  if (!target.starts_with('/')) target.insert(0, 1, '/');
  return Metaserver{*at, std::move(target)};
}

struct MetaserverPost::State {
  State(http::Client& http_client, std::string place, std::function<void(Error)> told)
      : client(http_client), name(std::move(place)), refused(std::move(told)) {}
  http::Client& client;
  std::string name;
  std::function<void(Error)> refused;
  http::Interrupt end;
  bool is_over = false;  // the post is out of scope
};

MetaserverPost::MetaserverPost(http::IoLoop& loop, http::Client& client, const Metaserver& to,
                               std::string body, std::function<void(Error)> refused)
    : state_(std::make_shared<State>(client, fmt::format("http://{}{}", net::to_string(to.at), to.target),
                                     std::move(refused))) {
  http::ClientRequest request{.to = to.at,
                              .method = "POST",
                              .target = to.target,
                              .headers = {},
                              .body = std::move(body),
                              .head_timeout = kMetaserverWait,
                              .idle_timeout = kMetaserverWait,
                              .interrupt = state_->end,
                              // The proxy begins at most one prefill for one reservation.
                              .resend = true};
  request.headers.add("Content-Type", "application/json");
  loop.spawn("metaserver", run(state_, std::move(request)));
}

MetaserverPost::~MetaserverPost() {
  state_->is_over = true;
  state_->end.trigger();
}

http::Awaitable<void> MetaserverPost::run(std::shared_ptr<State> state, http::ClientRequest request) {
  const auto answer = co_await state->client.request(std::move(request));
  if (state->is_over) co_return;
  if (answer && answer->status >= 200 && answer->status < 300) co_return;
  Error error =
      answer ? Error{Code::kUnavailable, fmt::format("it answers {}", answer->status)} : answer.error();
  error.message = fmt::format("metaserver {}: {}", state->name, error.message);
  log_warning("serve", error.message);
  state->refused(std::move(error));
}

}  // namespace baton::serve
