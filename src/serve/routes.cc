#include "serve/routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "api/request.h"
#include "api/response.h"
#include "base/log.h"
#include "net/address.h"
#include "serve/debug_text.h"
#include "serve/engine_thread.h"
#include "serve/request_builder.h"
#include "serve/session.h"

namespace baton::serve {
namespace {

constexpr std::string_view kJson = "application/json";
// An engine that has work but whose beacon (one tick per layer) stood still for this long is not healthy.
constexpr Duration kBeaconSilenceMax = std::chrono::seconds(20);

using Answer = http::Awaitable<void>;
using Endpoint = Answer (*)(Desk&, http::Request&, http::ResponseWriter&);

enum class Access {
  kOpen,    // anybody
  kClient,  // an API key, if the server has any
  kAdmin,   // loopback or the admin key
};

struct Route {
  std::string_view method;
  std::string_view path;
  Access access;
  bool needs_model;
  Endpoint answer;
};

void send_error(http::ResponseWriter& writer, const Error& error) {
  writer.send(api::http_status(error.code), kJson, api::render_error(error));
}

// Compares without telling by its duration how much of the key was right.
bool equal_keys(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  return difference == 0;
}

std::string_view bearer(const http::Request& request) {
  constexpr std::string_view kScheme = "Bearer ";
  const std::string_view value = request.headers.get("Authorization").value_or("");
  return value.size() > kScheme.size() && http::equal_names(value.substr(0, kScheme.size()), kScheme)
             ? value.substr(kScheme.size())
             : std::string_view();
}

bool may(const Desk& desk, const http::Request& request, Access access) {
  const options::ServeOptions& options = *desk.options;
  if (access == Access::kOpen) return true;
  if (access == Access::kClient) {
    if (options.api_keys.empty()) return true;
    return std::ranges::any_of(options.api_keys,
                               [&](const std::string& key) { return equal_keys(key, bearer(request)); });
  }
  if (!options.admin_key.empty()) return equal_keys(options.admin_key, bearer(request));
  return net::is_loopback(request.peer);
}

Answer answer_health(Desk& desk, http::Request&, http::ResponseWriter& writer) {
  if (desk.model == nullptr) {
    writer.send(503, kJson, R"({"error":"loading"})");
  } else if (desk.draining) {
    writer.send(503, kJson, R"({"error":"draining"})");
  } else if (const Duration silence = desk.engine_thread->beacon_silence(); silence > kBeaconSilenceMax) {
    writer.send(503, kJson,
                fmt::format(R"({{"error":"the engine has not advanced for {:.0f} s"}})", seconds(silence)));
  } else {
    writer.send(200, kJson, "{}");
  }
  co_return;
}

Answer answer_ping(Desk& desk, http::Request& request, http::ResponseWriter& writer) {
  return answer_health(desk, request, writer);
}

Answer answer_version(Desk&, http::Request&, http::ResponseWriter& writer) {
  writer.send(200, kJson, R"({"version":")" BATON_VERSION R"("})");
  co_return;
}

Answer answer_models(Desk& desk, http::Request&, http::ResponseWriter& writer) {
  std::vector<api::ModelCard> cards;
  for (const std::string& name : desk.model->names) {
    cards.push_back({.id = name,
                     .root = desk.model->directory,
                     .created_s = desk.model->loaded_s,
                     .max_model_len = desk.model->max_model_len});
  }
  writer.send(200, kJson, api::render_models(cards, api::render_identity(desk.model->identity)));
  co_return;
}

Answer answer_metrics(Desk& desk, http::Request&, http::ResponseWriter& writer) {
  if (desk.engine_thread != nullptr) {
    const Result<EngineReport> report = co_await desk.engine_thread->report(*desk.loop);
    if (report) fill_metrics(*report, desk.metrics);
  }
  if (desk.spans != nullptr) {
    const traces::ExporterCounters& spans = desk.spans->counters();
    desk.metrics.spans = {.exported = spans.exported, .dropped = spans.dropped};
  }
  writer.send(200, api::kMetricsContentType, api::render_metrics(desk.metrics));
}

Answer answer_debug_requests(Desk& desk, http::Request&, http::ResponseWriter& writer) {
  const Result<EngineReport> report = co_await desk.engine_thread->report(*desk.loop);
  if (!report) {
    send_error(writer, report.error());
  } else {
    writer.send(200, kJson, render_debug_requests(*report, desk.recent, desk.loop->now()));
  }
}

Answer answer_tokenize(Desk& desk, http::Request& request, http::ResponseWriter& writer) {
  const api::RequestLimits limits{.vocab_size = desk.model->vocab_size};
  const auto answer = [&]() -> Result<std::string> {
    TRY(const api::TokenizeRequest asked, api::parse_tokenize_request(request.body, limits));
    TRY_DO(check_name(*desk.model, asked.model));
    std::vector<TokenId> tokens;
    if (const auto* text = std::get_if<std::string>(&asked.input)) {
      TRY(tokens, desk.model->tokenizer.encode(*text, asked.add_special_tokens));
    } else {
      auto chat = std::get<api::ChatRequest>(asked.input);
      api::normalise_messages(chat.messages);
      TRY(const TokenizedPrompt prompt, encode_chat(*desk.model, chat));
      tokens = prompt.tokens;
    }
    std::vector<std::string> texts;
    for (const TokenId token : tokens) texts.push_back(desk.model->tokenizer.token_text(token));
    return api::render_tokenize(tokens, desk.model->max_model_len,
                                asked.return_token_strs ? &texts : nullptr);
  };
  const Result<std::string> body = answer();
  if (body) {
    writer.send(200, kJson, *body);
  } else {
    send_error(writer, body.error());
  }
  co_return;
}

Answer answer_detokenize(Desk& desk, http::Request& request, http::ResponseWriter& writer) {
  const api::RequestLimits limits{.vocab_size = desk.model->vocab_size};
  const Result<api::DetokenizeRequest> asked = api::parse_detokenize_request(request.body, limits);
  if (!asked) {
    send_error(writer, asked.error());
  } else if (const Result<void> named = check_name(*desk.model, asked->model); !named) {
    send_error(writer, named.error());
  } else {
    writer.send(200, kJson, api::render_detokenize(desk.model->tokenizer.decode(asked->tokens, false)));
  }
  co_return;
}

// Ids are those of requests (X-Request-Id), or of held prefills (remote_request_id of an answer's
// kv_transfer_params): whichever they name is ended.
Answer answer_abort(Desk& desk, http::Request& request, http::ResponseWriter& writer) {
  const Result<std::vector<std::string>> ids = api::parse_abort_request(request.body);
  if (!ids) {
    send_error(writer, ids.error());
    co_return;
  }
  size_t aborted = 0;
  for (const std::string& id : *ids) {
    aborted += desk.engine->abort_external(id, "aborted by /abort_request");
    if (const auto handover = HandoverId::parse(id)) {
      static_cast<void>(desk.engine->post(engine::ReleaseHeld{*handover, "released by /abort_request"}));
    }
  }
  writer.send(200, kJson, fmt::format(R"({{"aborted":{}}})", aborted));
}

Answer answer_reset_prefix_cache(Desk& desk, http::Request&, http::ResponseWriter& writer) {
  if (desk.engine->post(engine::ResetPrefixCache{})) {
    writer.send(200, kJson, "");
  } else {
    send_error(writer, {Code::kExhausted, "the engine's inbox is full; try again"});
  }
  co_return;
}

Answer answer_record(Desk& desk, http::Request&, http::ResponseWriter& writer) {
  const Result<std::string> path = co_await desk.engine_thread->write_record(*desk.loop);
  if (path) {
    std::string body = R"({"file":)";
    api::append_json_string(body, *path);
    writer.send(200, kJson, body + "}");
  } else {
    send_error(writer, path.error());
  }
}

constexpr std::array kRoutes = {
    Route{"POST", "/v1/chat/completions", Access::kClient, true, answer_chat},
    Route{"POST", "/v1/completions", Access::kClient, true, answer_completion},
    Route{"GET", "/v1/models", Access::kClient, true, answer_models},
    Route{"POST", "/tokenize", Access::kClient, true, answer_tokenize},
    Route{"POST", "/detokenize", Access::kClient, true, answer_detokenize},
    Route{"GET", "/health", Access::kOpen, false, answer_health},
    Route{"GET", "/ping", Access::kOpen, false, answer_ping},
    Route{"POST", "/ping", Access::kOpen, false, answer_ping},
    Route{"GET", "/version", Access::kOpen, false, answer_version},
    Route{"GET", "/metrics", Access::kOpen, false, answer_metrics},
    Route{"POST", "/abort_request", Access::kAdmin, true, answer_abort},
    Route{"POST", "/reset_prefix_cache", Access::kAdmin, true, answer_reset_prefix_cache},
    Route{"GET", "/debug/requests", Access::kAdmin, true, answer_debug_requests},
    Route{"POST", "/debug/record", Access::kAdmin, true, answer_record},
};

Answer refuse(http::ResponseWriter& writer, int status, std::string message, std::string allowed = {}) {
  http::Response response;
  response.status = status;
  response.headers.add("Content-Type", kJson);
  if (!allowed.empty()) response.headers.add("Allow", allowed);
  response.body = api::render_error({Code::kInvalid, std::move(message)}, status);
  writer.send(response);
  co_return;
}

// HEAD is GET without its body (RFC 9110, section 9.3.2), which the server leaves out.
bool serves(const Route& route, std::string_view method) {
  return route.method == method || (method == "HEAD" && route.method == "GET");
}

// The methods of a path, for the Allow field (RFC 9110, section 10.2.1).
std::string methods_of(std::string_view path) {
  std::string out;
  for (const Route& route : kRoutes) {
    if (route.path != path) continue;
    out += fmt::format("{}{}", out.empty() ? "" : ", ", route.method == "GET" ? "GET, HEAD" : route.method);
  }
  return out;
}

Answer route(Desk& desk, http::Request& request, http::ResponseWriter& writer) {
  bool path_known = false;
  for (const Route& candidate : kRoutes) {
    if (candidate.path != request.path()) continue;
    path_known = true;
    if (!serves(candidate, request.method)) continue;
    if (!may(desk, request, candidate.access)) {
      return refuse(
          writer, 401,
          candidate.access == Access::kAdmin
              ? fmt::format("{} is for loopback, or for `Authorization: Bearer` with the --admin-key",
                            candidate.path)
              : "Authorization: expected `Bearer` with a valid API key");
    }
    if (candidate.needs_model && desk.model == nullptr) return refuse(writer, 503, desk.loading);
    if (candidate.needs_model && desk.draining && candidate.method == "POST" &&
        candidate.access == Access::kClient) {
      return refuse(writer, 503, "this instance is shutting down");
    }
    if (const auto coding = request.headers.get("Content-Encoding"); coding && *coding != "identity") {
      return refuse(writer, 415, fmt::format("Content-Encoding: {}, expected none or identity", *coding));
    }
    return candidate.answer(desk, request, writer);
  }
  if (path_known) {
    return refuse(writer, 405, fmt::format("{} is not allowed on {}", request.method, request.path()),
                  methods_of(request.path()));
  }
  return refuse(writer, 404, fmt::format("{}: no such path", request.path()));
}

}  // namespace

http::Handler make_handler(Desk& desk) {
  return
      [&desk](http::Request& request, http::ResponseWriter& writer) { return route(desk, request, writer); };
}

}  // namespace baton::serve
