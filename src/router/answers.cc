#include "router/answers.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/response.h"

namespace baton::router {
namespace {

// A 500 whose body says that the request is wrong would come from everybody.
bool is_clients_fault(const UpstreamAnswer& answer) {
  if (answer.status != 500) return false;
  const auto body = api::parse_json_object(answer.body);
  if (!body) return false;
  const api::json::value* error = body->if_contains("error");
  const api::json::object& object = error != nullptr && error->is_object() ? error->get_object() : *body;
  const api::json::value* type = object.if_contains("type");
  const api::json::value* code = object.if_contains("code");
  const bool is_bad_type =
      type != nullptr && type->is_string() &&
      (type->get_string() == "BadRequestError" || type->get_string() == "invalid_request_error");
  return is_bad_type || (code != nullptr && code->is_int64() && code->get_int64() == 400);
}

}  // namespace

bool may_try_again(const UpstreamAnswer& answer) {
  const int status = answer.status;
  return (status == 408 || status == 429 || status >= 500) && !is_clients_fault(answer);
}

void append_event(std::string_view data, std::string& out) {
  out += "data: ";
  out += data;
  out += "\n\n";
}

bool is_error_event(std::string_view data) {
  if (!api::mentions(data, R"("error")")) return false;
  const auto event = api::ObjectBytes::parse(data);
  if (!event) return false;
  return event->find("error").value_or("null") != "null" || event->find("object") == "\"error\"";
}

void append_lost(std::string& out, const Error& error, std::string_view phase, std::string_view instance,
                 bool may_retry) {
  std::string data = api::render_error(error);
  data.resize(data.size() - 2);  // the ends of both objects
  data += ",\"phase\":";
  api::append_json_string(data, phase);
  data += ",\"instance\":";
  api::append_json_string(data, instance);
  data += may_retry ? ",\"retry\":true}}" : ",\"retry\":false}}";
  append_event(data, out);
}

Reply reply_of(const UpstreamAnswer& answer) {
  Reply reply{.status = answer.status, .body = answer.body, .retry_after = answer.retry_after};
  if (reply.retry_after.empty() && (answer.status == 429 || answer.status == 503))
    reply.retry_after = kRetryAfter;
  if (!api::parse_json_object(answer.body)) {
    const std::string text = answer.body.empty()
                                 ? fmt::format("the instance answered {} without a body", answer.status)
                                 : answer.body.substr(0, 1024);
    reply.body = api::render_error({Code::kUnavailable, text}, answer.status);
  }
  return reply;
}

Reply reply_of(const Error& error) {
  const bool later = error.code == Code::kExhausted || error.code == Code::kUnavailable;
  return {.status = api::http_status(error.code),
          .body = api::render_error(error),
          .retry_after = std::string(later ? kRetryAfter : "")};
}

Duration pause_after(const FlowLimits& limits, int32_t attempts) {
  const Duration delay = limits.retry_delay * (1LL << std::clamp(attempts - 1, 0, 20));
  return std::min(delay, limits.retry_delay_max);
}

Error named(const Registry& registry, InstanceId id, const Error& error) {
  const Instance* instance = registry.find(id);
  if (instance == nullptr) return error;
  return {error.code,
          fmt::format("{} instance {}: {}", side_name(instance->side), instance->address(), error.message)};
}

void note_status(Registry& registry, InstanceId id, int status, Time now) {
  if (status == 502 || status == 503 || status == 504) {
    registry.on_answer_failed(id, now);
  } else if (status != 200) {
    registry.on_answered(id, now);
  }
}

bool note_own_prefill(Registry& registry, Reservation& d, Demand& demand, std::string_view answer) {
  d.release_prefill();
  if (!api::mentions(answer, R"("prompt_tokens")")) return false;
  const auto usage = read_prompt_usage(answer);
  if (usage) registry.on_prefilled(d, demand, usage->prompt_tokens, usage->cached_tokens);
  return usage.has_value();
}

bool is_baton(const Registry& registry, InstanceId id) {
  const Instance* instance = registry.find(id);
  return instance != nullptr && instance->identity.has_value();
}

std::optional<Cleanup> abort_of(const Registry& registry, InstanceId id, std::string request) {
  const Instance* instance = registry.find(id);
  if (instance == nullptr || !instance->identity) return std::nullopt;
  return Cleanup{.instance = id,
                 .host = instance->host,
                 .port = instance->port,
                 .ids = {std::move(request)},
                 .decode_body = {}};
}

}  // namespace baton::router
