// One choice's tokens on their way to the client: text by incremental decoding and stop strings,
// log-probabilities with the vocabulary's texts, the finish reason. A value with one owner, the session.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/response.h"
#include "engine/request.h"
#include "text/incremental_decoder.h"
#include "text/stop_strings.h"
#include "text/tokenizer.h"

namespace baton::serve {

// The vocabulary's texts filled into what the engine knows by ids.
api::PositionLogprobs with_texts(const engine::PositionLogprobs& position, const text::Tokenizer& tokenizer);

class ChoiceText {
 public:
  struct Settings {
    bool skip_special_tokens = true;
    bool include_stop_str_in_output = false;
    uint32_t min_tokens = 0;  // a stop string counts only from this many tokens on
  };

  ChoiceText(const text::Tokenizer& tokenizer, text::StopStrings stops, Settings settings)
      : tokenizer_(&tokenizer),
        decoder_(tokenizer, settings.skip_special_tokens),
        stops_(std::move(stops)),
        settings_(settings) {}

  // What one burst of tokens adds.
  struct Added {
    std::string text;
    std::vector<TokenId> token_ids;
    std::vector<api::PositionLogprobs> logprobs;  // one per token if they were asked for
    bool hit_stop_string = false;                 // the engine shall stop this choice
  };

  // Tokens after the end are dropped: the engine may have run ahead of a stop string.
  Added take(const std::vector<engine::DrawnToken>& tokens);

  // Ends the choice without a word: another instance has said all of it.
  void conclude();

  bool finished() const { return finish_.has_value(); }
  std::optional<api::FinishReason> finish() const { return finish_; }
  const api::StopReason& stop_reason() const { return stop_reason_; }
  uint32_t tokens() const { return count_; }

 private:
  void take_one(const engine::DrawnToken& token, Added& added);

  const text::Tokenizer* tokenizer_;
  text::IncrementalDecoder decoder_;
  text::StopStrings stops_;
  Settings settings_;
  uint32_t count_ = 0;
  std::optional<api::FinishReason> finish_;
  api::StopReason stop_reason_;
};

}  // namespace baton::serve
