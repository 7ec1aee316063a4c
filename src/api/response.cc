#include "api/response.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "api/json.h"

namespace baton::api {
namespace {

constexpr float kLogprobFloor = -9999.0F;

void append_key(std::string& out, std::string_view key) {
  if (out.back() != '{') out += ',';
  out += '"';
  out += key;
  out += "\":";
}

void append_logprob(std::string& out, float logprob) {
  append_json_number(out, static_cast<double>(std::max(logprob, kLogprobFloor)));
}

void append_ids(std::string& out, std::span<const TokenId> ids) {
  out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    append_json_integer(out, ids[i]);
  }
  out += ']';
}

std::string shown_text(const Candidate& token, bool as_id) {
  return as_id ? fmt::format("token_id:{}", token.token) : token.text;
}

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U; }

// {"token","logprob","bytes"} without the closing brace.
void append_chat_token(std::string& out, const Candidate& token, bool as_id) {
  const std::string text = shown_text(token, as_id);
  out += "{\"token\":";
  append_json_string(out, text);
  out += ",\"logprob\":";
  append_logprob(out, token.logprob);
  out += ",\"bytes\":[";
  for (size_t i = 0; i < text.size(); ++i) {
    if (i > 0) out += ',';
    append_json_integer(out, static_cast<unsigned>(static_cast<unsigned char>(text[i])));
  }
  out += ']';
}

void append_chat_logprobs(std::string& out, const std::vector<PositionLogprobs>& positions, bool as_ids) {
  out += "{\"content\":[";
  for (size_t i = 0; i < positions.size(); ++i) {
    if (i > 0) out += ',';
    append_chat_token(out, positions[i].chosen, as_ids);
    out += ",\"top_logprobs\":[";
    for (size_t k = 0; k < positions[i].top.size(); ++k) {
      if (k > 0) out += ',';
      append_chat_token(out, positions[i].top[k], as_ids);
      out += '}';
    }
    out += "]}";
  }
  out += "]}";
}

// The chosen token and the best ones as an object from text to logprob; of tokens with the same text the
// first.
void append_top_object(std::string& out, const PositionLogprobs& position, bool as_ids) {
  std::vector<std::string> shown;
  out += '{';
  const auto append = [&](const Candidate& token) {
    std::string key;
    append_json_string(key, shown_text(token, as_ids));
    if (std::ranges::find(shown, key) != shown.end()) return;
    if (!shown.empty()) out += ',';
    out += key;
    out += ':';
    append_logprob(out, token.logprob);
    shown.push_back(std::move(key));
  };
  append(position.chosen);
  for (const Candidate& token : position.top) append(token);
  out += '}';
}

void append_completion_logprobs(std::string& out, const std::vector<PositionLogprobs>& positions,
                                int64_t offset, bool as_ids) {
  std::string offsets;
  std::string logprobs;
  std::string tokens;
  std::string tops;
  for (const PositionLogprobs& position : positions) {
    if (&position != &positions.front()) {
      for (std::string* list : {&offsets, &logprobs, &tokens, &tops}) *list += ',';
    }
    const std::string& text = position.chosen.text;
    const bool begins_inside = offset > 0 && !text.empty() && is_continuation(text.front());
    append_json_integer(offsets, begins_inside ? offset - 1 : offset);
    offset += characters_begun(text);
    append_json_string(tokens, shown_text(position.chosen, as_ids));
    if (position.known) {
      append_logprob(logprobs, position.chosen.logprob);
      append_top_object(tops, position, as_ids);
    } else {
      logprobs += "null";
      tops += "null";
    }
  }
  out += "{\"text_offset\":[" + offsets + "],\"token_logprobs\":[" + logprobs + "],\"tokens\":[" + tokens +
         "],\"top_logprobs\":[" + tops + "]}";
}

// [null, {"ID": {"logprob", "rank", "decoded_token"}, ...}, ...], the chosen token first.
void append_prompt_logprobs(std::string& out, const std::vector<PositionLogprobs>& positions) {
  const auto append = [&out](const Candidate& token) {
    if (out.back() != '{') out += ',';
    out += fmt::format("\"{}\":{{\"logprob\":", token.token);
    append_logprob(out, token.logprob);
    out += ",\"rank\":";
    append_json_integer(out, token.rank);
    out += ",\"decoded_token\":";
    append_json_string(out, token.text);
    out += '}';
  };
  out += '[';
  for (const PositionLogprobs& position : positions) {
    if (&position != &positions.front()) out += ',';
    if (!position.known) {
      out += "null";
      continue;
    }
    out += '{';
    append(position.chosen);
    for (const Candidate& token : position.top) {
      if (token.token != position.chosen.token) append(token);
    }
    out += '}';
  }
  out += ']';
}

void append_stop_reason(std::string& out, const StopReason& reason) {
  if (const auto* token = std::get_if<TokenId>(&reason)) {
    append_json_integer(out, *token);
  } else if (const auto* text = std::get_if<std::string>(&reason)) {
    append_json_string(out, *text);
  } else {
    out += "null";
  }
}

void append_finish(std::string& out, std::optional<FinishReason> reason, const StopReason& stop_reason) {
  append_key(out, "finish_reason");
  if (reason) {
    append_json_string(out, finish_reason_name(*reason));
  } else {
    out += "null";
  }
  append_key(out, "stop_reason");
  append_stop_reason(out, stop_reason);
}

void append_usage_object(std::string& out, const Usage& usage) {
  out +=
      fmt::format("{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{}", usage.prompt_tokens,
                  usage.prompt_tokens + usage.completion_tokens, usage.completion_tokens);
  if (usage.cached_tokens) {
    out += fmt::format(",\"prompt_tokens_details\":{{\"cached_tokens\":{}}}", *usage.cached_tokens);
  }
  out += '}';
}

// {"id","object","created","model","choices":[
std::string opening(const ResponseHead& head, std::string_view object) {
  std::string out = "{";
  append_key(out, "id");
  append_json_string(out, head.id);
  append_key(out, "object");
  append_json_string(out, object);
  append_key(out, "created");
  append_json_integer(out, head.created_s);
  append_key(out, "model");
  append_json_string(out, head.model);
  append_key(out, "choices");
  out += '[';
  return out;
}

// Members that are there only for who asked for them.
void append_asked(std::string& out, std::string_view timings, std::string_view receipt) {
  for (const auto& [key, text] : {std::pair("timings", timings), std::pair("receipt", receipt)}) {
    if (text.empty()) continue;
    append_key(out, key);
    out += text;
  }
}

void close_whole(std::string& out, const Usage& usage, std::string_view kv_transfer_params,
                 std::string_view timings, std::string_view receipt) {
  append_key(out, "usage");
  append_usage_object(out, usage);
  append_key(out, "kv_transfer_params");
  out += kv_transfer_params.empty() ? "null" : kv_transfer_params;
  append_asked(out, timings, receipt);
  out += '}';
}

void append_token_ids(std::string& out, std::string_view key,
                      const std::optional<std::vector<TokenId>>& ids) {
  if (!ids) return;
  append_key(out, key);
  append_ids(out, *ids);
}

}  // namespace

std::optional<FinishReason> parse_finish_reason(std::string_view name) {
  for (const FinishReason reason :
       {FinishReason::kStop, FinishReason::kLength, FinishReason::kAbort, FinishReason::kError}) {
    if (finish_reason_name(reason) == name) return reason;
  }
  return std::nullopt;
}

int64_t characters_begun(std::string_view bytes) {
  return std::ranges::count_if(bytes, [](char byte) { return !is_continuation(byte); });
}

std::string completion_id(std::string_view request_id) { return fmt::format("cmpl-{}", request_id); }
std::string chat_id(std::string_view request_id) { return fmt::format("chatcmpl-{}", request_id); }

std::string render_completion(const ResponseHead& head, std::span<const Choice> choices, const Usage& usage,
                              std::string_view kv_transfer_params, std::string_view timings,
                              std::string_view receipt) {
  std::string out = opening(head, "text_completion");
  for (const Choice& choice : choices) {
    if (&choice != choices.data()) out += ',';
    out += '{';
    append_key(out, "index");
    append_json_integer(out, choice.index);
    append_key(out, "text");
    append_json_string(out, choice.text);
    append_key(out, "logprobs");
    if (choice.logprobs) {
      append_completion_logprobs(out, *choice.logprobs, choice.text_offset, head.tokens_as_ids);
    } else {
      out += "null";
    }
    append_finish(out, choice.finish_reason, choice.stop_reason);
    if (choice.prompt_logprobs) {
      append_key(out, "prompt_logprobs");
      append_prompt_logprobs(out, *choice.prompt_logprobs);
    }
    append_token_ids(out, "prompt_token_ids", choice.prompt_token_ids);
    append_token_ids(out, "token_ids", choice.token_ids);
    out += '}';
  }
  out += ']';
  close_whole(out, usage, kv_transfer_params, timings, receipt);
  return out;
}

std::string render_chat(const ResponseHead& head, std::span<const Choice> choices, const Usage& usage,
                        std::string_view kv_transfer_params, std::string_view timings,
                        std::string_view receipt) {
  std::string out = opening(head, "chat.completion");
  for (const Choice& choice : choices) {
    if (&choice != choices.data()) out += ',';
    out += '{';
    append_key(out, "index");
    append_json_integer(out, choice.index);
    append_key(out, "message");
    out += "{\"role\":\"assistant\",\"content\":";
    append_json_string(out, choice.text);
    out += '}';
    append_key(out, "logprobs");
    if (choice.logprobs) {
      append_chat_logprobs(out, *choice.logprobs, head.tokens_as_ids);
    } else {
      out += "null";
    }
    append_finish(out, choice.finish_reason, choice.stop_reason);
    append_token_ids(out, "token_ids", choice.token_ids);
    out += '}';
  }
  out += ']';
  // The prompt is one for all choices of a chat, so what belongs to it stands beside them.
  const Choice* first = choices.empty() ? nullptr : choices.data();
  if (first != nullptr && first->prompt_logprobs) {
    append_key(out, "prompt_logprobs");
    append_prompt_logprobs(out, *first->prompt_logprobs);
  }
  if (first != nullptr) append_token_ids(out, "prompt_token_ids", first->prompt_token_ids);
  close_whole(out, usage, kv_transfer_params, timings, receipt);
  return out;
}

ChunkWriter::ChunkWriter(Kind kind, const ResponseHead& head)
    : kind_(kind),
      tokens_as_ids_(head.tokens_as_ids),
      prefix_("data: " + opening(head, kind == Kind::kChat ? "chat.completion.chunk" : "text_completion")) {}

void ChunkWriter::append_role(std::string& out, const Delta& delta) const {
  out += prefix_;
  out += "{\"index\":";
  append_json_integer(out, delta.index);
  out += ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]";
  if (delta.prompt_token_ids != nullptr) {
    append_key(out, "prompt_token_ids");
    append_ids(out, *delta.prompt_token_ids);
  }
  if (delta.usage != nullptr) {
    append_key(out, "usage");
    append_usage_object(out, *delta.usage);
  }
  out += "}\n\n";
}

void ChunkWriter::append_delta(std::string& out, const Delta& delta) const {
  const bool chat = kind_ == Kind::kChat;
  out += prefix_;
  out += "{\"index\":";
  append_json_integer(out, delta.index);
  out += chat ? ",\"delta\":{\"content\":" : ",\"text\":";
  append_json_string(out, delta.text);
  if (chat) out += '}';
  append_key(out, "logprobs");
  if (delta.logprobs == nullptr) {
    out += "null";
  } else if (chat) {
    append_chat_logprobs(out, *delta.logprobs, tokens_as_ids_);
  } else {
    append_completion_logprobs(out, *delta.logprobs, delta.text_offset, tokens_as_ids_);
  }
  append_finish(out, delta.finish_reason, delta.stop_reason);
  if (!chat && delta.prompt_token_ids != nullptr) {
    append_key(out, "prompt_token_ids");
    append_ids(out, *delta.prompt_token_ids);
  }
  if (delta.token_ids != nullptr) {
    append_key(out, "token_ids");
    append_ids(out, *delta.token_ids);
  }
  out += "}]";
  if (delta.usage != nullptr) {
    append_key(out, "usage");
    append_usage_object(out, *delta.usage);
  }
  out += "}\n\n";
}

void ChunkWriter::append_usage(std::string& out, const Usage& usage) const {
  out += prefix_;
  out += "],\"usage\":";
  append_usage_object(out, usage);
  out += "}\n\n";
}

void ChunkWriter::append_last(std::string& out, std::string_view timings, std::string_view receipt,
                              const Usage* usage) const {
  out += prefix_;
  out += ']';
  if (usage != nullptr) {
    append_key(out, "usage");
    append_usage_object(out, *usage);
  }
  append_asked(out, timings, receipt);
  out += "}\n\n";
}

void append_done(std::string& out) { out += "data: [DONE]\n\n"; }

void append_error_event(std::string& out, const Error& error) {
  out += "data: ";
  out += render_error(error);
  out += "\n\n";
}

std::string render_models(std::span<const ModelCard> cards, std::string_view baton) {
  std::string out = "{\"object\":\"list\",\"data\":[";
  for (const ModelCard& card : cards) {
    if (&card != cards.data()) out += ',';
    out += '{';
    append_key(out, "id");
    append_json_string(out, card.id);
    append_key(out, "object");
    out += "\"model\"";
    append_key(out, "created");
    append_json_integer(out, card.created_s);
    append_key(out, "owned_by");
    out += "\"baton\"";
    append_key(out, "root");
    append_json_string(out, card.root);
    append_key(out, "parent");
    out += "null";
    append_key(out, "max_model_len");
    append_json_integer(out, card.max_model_len);
    out += '}';
  }
  out += ']';
  if (!baton.empty()) {
    append_key(out, "baton");
    out += baton;
  }
  out += '}';
  return out;
}

std::string render_tokenize(std::span<const TokenId> tokens, int32_t max_model_len,
                            const std::vector<std::string>* token_strs) {
  std::string out =
      fmt::format("{{\"count\":{},\"max_model_len\":{},\"tokens\":", tokens.size(), max_model_len);
  append_ids(out, tokens);
  append_key(out, "token_strs");
  if (token_strs == nullptr) {
    out += "null}";
    return out;
  }
  out += '[';
  for (const std::string& text : *token_strs) {
    if (&text != &token_strs->front()) out += ',';
    append_json_string(out, text);
  }
  out += "]}";
  return out;
}

std::string render_detokenize(std::string_view text) {
  std::string out = "{\"prompt\":";
  append_json_string(out, text);
  out += '}';
  return out;
}

}  // namespace baton::api
