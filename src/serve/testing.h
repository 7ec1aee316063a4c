// For the tests of this room: what stands behind a door when no checkpoint is loaded. The tokenizer and the
// chat template are those of a golden checkpoint (byte-level BPE of 1,024 ids, ChatML).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api/testing.h"
#include "base/check.h"
#include "serve/served_model.h"

namespace baton::serve {

inline constexpr std::string_view kTestCheckpoint = BATON_SOURCE_DIR "/tests/golden/checkpoints/qwen3";
inline constexpr int32_t kTestVocab = 1024;
inline constexpr TokenId kTestEos = 976;      // <|im_end|>
inline constexpr TokenId kTestImStart = 975;  // <|im_start|>, special
inline constexpr int32_t kTestModelLen = 256;

inline ServedModel test_model() {
  const std::string directory(kTestCheckpoint);
  auto tokenizer = text::Tokenizer::load(directory);
  CHECK(tokenizer.has_value(), "{}", tokenizer.error().message);
  auto chat = text::ChatTemplate::load(directory);
  CHECK(chat.has_value(), "{}", chat.error().message);
  ServedModel model(std::move(*tokenizer));
  model.names = {"m", "alias"};
  model.directory = directory;
  model.loaded_s = 1'700'000'000;
  model.special_tokens = chat->special_tokens();
  model.chat_template = std::move(*chat);
  model.eos_token_ids = {974, kTestEos};
  model.vocab_size = kTestVocab;
  model.max_model_len = kTestModelLen;
  model.identity = api::identity_of(api::Role::kBoth);
  model.identity.hands_over = false;
  model.identity.max_model_len = kTestModelLen;
  return model;
}

// The ids of `text`, without special tokens around it.
inline std::vector<TokenId> ids_of(const ServedModel& model, std::string_view text) {
  auto ids = model.tokenizer.encode(text, false);
  CHECK(ids.has_value(), "{}", ids.error().message);
  return *ids;
}

}  // namespace baton::serve
