#include "router/rendezvous.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "api/json.h"

namespace baton::router {
namespace {

Failure odd(std::string_view key, std::string_view expectation) {
  return fail(Code::kCorrupt, fmt::format("/query: rank {}: expected {}", key.substr(0, 64), expectation));
}

}  // namespace

Result<std::vector<BootstrapRank>> read_bootstrap_answer(std::string_view body) {
  const auto parsed = api::parse_json_object(body, kBootstrapAnswerBytesMax);
  if (!parsed) return fail(Code::kCorrupt, "/query: its answer is not a JSON object");
  if (parsed->size() > kBootstrapRanksMax) {
    return fail(Code::kCorrupt,
                fmt::format("/query: {} ranks, expected at most {}", parsed->size(), kBootstrapRanksMax));
  }
  std::vector<BootstrapRank> ranks;
  for (const auto& entry : *parsed) {
    const std::string_view key = entry.key();
    BootstrapRank one;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), one.rank);
    if (error != std::errc{} || end != key.data() + key.size() || one.rank < 0)
      return odd(key, "a number from 0 up");
    const api::json::value* id =
        entry.value().is_object() ? entry.value().get_object().if_contains("engine_id") : nullptr;
    if (id == nullptr || !id->is_string() || id->get_string().empty())
      return odd(key, "an object with a text `engine_id`");
    one.engine_id = std::string(id->get_string());
    ranks.push_back(std::move(one));
  }
  if (ranks.empty()) return fail(Code::kUnavailable, "/query: no rank of it has registered yet");
  std::ranges::sort(ranks, {}, &BootstrapRank::rank);
  const auto again = std::ranges::adjacent_find(ranks, {}, &BootstrapRank::rank);
  if (again != ranks.end()) return odd(std::to_string(again->rank), "each rank once");
  return ranks;
}

std::string Rendezvous::prefill_params() const {
  std::string out = R"({"do_remote_decode":true,"do_remote_prefill":false,"transfer_id":)";
  api::append_json_string(out, transfer_id);
  return out + "}";
}

std::string Rendezvous::decode_params() const {
  std::string out = R"({"do_remote_decode":false,"do_remote_prefill":true,"remote_bootstrap_addr":)";
  api::append_json_string(out, bootstrap);
  out += R"(,"remote_engine_id":)";
  api::append_json_string(out, p.engine_id);
  out += R"(,"transfer_id":)";
  api::append_json_string(out, transfer_id);
  return out + "}";
}

bool keeps_kv(std::string_view answer) {
  const auto members = api::ObjectBytes::parse(answer, api::kBodyBytesMax);
  if (!members) return false;
  const auto choices = api::array_elements(members->find("choices").value_or(""));
  if (choices.empty()) return false;
  const auto choice = api::ObjectBytes::parse(choices[0], api::kBodyBytesMax);
  return choice && choice->find("finish_reason") == R"("length")";
}

}  // namespace baton::router
