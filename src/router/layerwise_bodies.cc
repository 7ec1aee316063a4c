#include "router/layerwise_bodies.h"

#include <fmt/format.h>

#include <utility>

#include "api/fields.h"
#include "api/kv_transfer_params.h"

namespace baton::router {
namespace {

std::string with_limits(std::string_view post, const std::optional<api::ClientLimits>& limits) {
  if (!limits) return std::string(post);
  auto members = api::ObjectBytes::parse(post, kMetaserverPostBytesMax);
  if (!members) return std::string(post);
  auto baton = api::ObjectBytes::parse(members->find("baton").value_or(""), kMetaserverPostBytesMax);
  if (!baton) return std::string(post);
  if (limits->max_tokens) baton->set("client_max_tokens", std::to_string(*limits->max_tokens));
  baton->set("client_min_tokens", std::to_string(limits->min_tokens));
  members->set("baton", baton->str());
  return members->str();
}

}  // namespace

Result<MetaserverPost> read_metaserver_post(std::string_view body) {
  MetaserverPost post;
  TRY(const auto object, api::parse_json_object(body, kMetaserverPostBytesMax));
  TRY(auto id, api::read_text(object, "request_id", api::kNameBytesMax));
  if (!id || id->empty())
    return fail(Code::kInvalid, "request_id: missing, expected the name of a request", "request_id");
  TRY(const auto params, api::parse_kv_transfer_params(object));
  post.request_id = std::move(*id);
  post.text = body;
  if (params->baton && params->baton->landing) post.incarnation = params->baton->landing->incarnation;
  return post;
}

std::string reserve_body(const ClientBody& client, std::string_view metaserver, bool to_baton,
                         uint64_t seed) {
  Changes changes;
  if (!to_baton) changes.emplace_back("prompt_logprobs", std::nullopt);
  changes.emplace_back("kv_transfer_params", api::render_metaserver_params(metaserver));
  if (to_baton && !client.has_seed) changes.emplace_back("seed", std::to_string(seed));
  return changed(client.members, changes);
}

std::string landing_body(const ClientBody& client, std::string_view post, bool to_baton, uint64_t seed) {
  return prefill_body_with(client, to_baton ? with_limits(post, client_limits(client)) : std::string(post),
                           to_baton, seed);
}

std::string prompt_body(const ClientBody& client, bool to_baton, uint64_t seed) {
  return prefill_body_with(client, std::nullopt, to_baton, seed);
}

}  // namespace baton::router
