// What the door knows of the model that stands behind it: names, text, limits and defaults. Immutable once
// loaded; read by the io thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/identity.h"
#include "api/request.h"
#include "base/ids.h"
#include "base/result.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace baton::serve {

struct ServedModel {
  explicit ServedModel(text::Tokenizer loaded) : tokenizer(std::move(loaded)) {}

  std::vector<std::string> names;  // the first is echoed
  bool accept_any_name = false;
  std::string directory;
  int64_t loaded_s = 0;  // Unix time

  text::Tokenizer tokenizer;
  std::optional<text::ChatTemplate> chat_template;
  std::string chat_template_missing;   // why there is none, for the 400 of a chat request
  boost::json::object special_tokens;  // what templates may name: bos_token, eos_token, ...
  std::vector<TokenId> eos_token_ids;  // config.json and generation_config.json, ascending, each once
  api::SamplingDefaults defaults;      // what --generation-config says

  int32_t vocab_size = 0;
  int32_t max_model_len = 0;
  int32_t max_logprobs = 20;
  bool trust_request_chat_template = false;

  api::InstanceIdentity identity;  // what proxies pair by
};

// kNotFound names the asked and the served names.
Result<void> check_name(const ServedModel& model, std::string_view asked);

}  // namespace baton::serve
