#include "serve/routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "api/request.h"
#include "api/response.h"
#include "base/log.h"
#include "http/route_table.h"
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

struct Route {
  std::string_view method;
  std::string_view path;
  http::Access access;
  bool needs_model;
  Endpoint answer;
};

void send_error(http::ResponseWriter& writer, const Error& error) {
  writer.send(api::http_status(error.code), kJson, api::render_error(error));
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
    Route{"POST", "/v1/chat/completions", http::Access::kClient, true, answer_chat},
    Route{"POST", "/v1/completions", http::Access::kClient, true, answer_completion},
    Route{"GET", "/v1/models", http::Access::kClient, true, answer_models},
    Route{"POST", "/tokenize", http::Access::kClient, true, answer_tokenize},
    Route{"POST", "/detokenize", http::Access::kClient, true, answer_detokenize},
    Route{"GET", "/health", http::Access::kOpen, false, answer_health},
    Route{"GET", "/ping", http::Access::kOpen, false, answer_ping},
    Route{"POST", "/ping", http::Access::kOpen, false, answer_ping},
    Route{"GET", "/version", http::Access::kOpen, false, answer_version},
    Route{"GET", "/metrics", http::Access::kOpen, false, answer_metrics},
    Route{"POST", "/abort_request", http::Access::kAdmin, true, answer_abort},
    Route{"POST", "/reset_prefix_cache", http::Access::kAdmin, true, answer_reset_prefix_cache},
    Route{"GET", "/debug/requests", http::Access::kAdmin, true, answer_debug_requests},
    Route{"POST", "/debug/record", http::Access::kAdmin, true, answer_record},
};

Answer route(Desk& desk, http::Request& request, http::ResponseWriter& writer) {
  const auto found = http::find_route(kRoutes, request, {desk.options->api_keys, desk.options->admin_key});
  if (const auto* refusal = std::get_if<http::Refusal>(&found)) return http::refuse(writer, *refusal);
  const Route& chosen = *std::get<const Route*>(found);
  if (chosen.needs_model && desk.model == nullptr) return http::refuse(writer, {503, desk.loading});
  if (chosen.needs_model && desk.draining && chosen.method == "POST" &&
      chosen.access == http::Access::kClient) {
    return http::refuse(writer, {503, "this instance is shutting down"});
  }
  return chosen.answer(desk, request, writer);
}

}  // namespace

http::Handler make_handler(Desk& desk) {
  return
      [&desk](http::Request& request, http::ResponseWriter& writer) { return route(desk, request, writer); };
}

}  // namespace baton::serve
