#include "serve/replay.h"

#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <memory>

#include "api/json.h"
#include "api/receipt.h"
#include "checkpoint/checkpoint.h"
#include "engine/recorder.h"
#include "kernels/cpu.h"
#include "kv/arena.h"
#include "model/decoder.h"
#include "options/help.h"
#include "options/tool_options.h"
#include "serve/memory.h"
#include "serve/receipt.h"
#include "serve/request_builder.h"
#include "serve/served_model.h"

namespace baton::serve {
namespace {

// A model and what it computes with, in the order in which they are made.
struct Loaded {
  std::unique_ptr<kernels::Cpu> cpu;
  std::unique_ptr<model::LanguageModel> model;
};

Result<Loaded> load(const std::string& directory, const model::DecoderOptions& options) {
  TRY(auto opened, checkpoint::Checkpoint::open(directory));
  const auto checkpoint = std::make_shared<const checkpoint::Checkpoint>(std::move(opened));
  TRY(const kernels::Isa isa, kernels::select_isa("auto"));
  Loaded out;
  out.cpu = std::make_unique<kernels::Cpu>(isa, usable_cores());
  TRY(auto loaded, model::load_decoder(checkpoint, *out.cpu, options));
  out.model = std::move(loaded.model);
  return out;
}

model::DTypeChoice choice_of(bool is_float32) {
  return is_float32 ? model::DTypeChoice::kFloat32 : model::DTypeChoice::kAuto;
}

// What there is to say of a file that was replayed.
struct Verdict {
  bool is_same = false;
  std::string text;
};

// ---- flight records ----

Result<Verdict> replay_record(const options::ReplayOptions& options) {
  if (!options.request.empty()) {
    return fail(Code::kInvalid,
                fmt::format("--request: {} is a flight record, expected a receipt", options.file));
  }
  TRY(const engine::Record record, engine::read_record_file(options.file));
  TRY(const Loaded loaded, load(options.model, {.dtype = choice_of(record.head.layout.dtype == DType::kF32),
                                                .block_tokens = record.head.layout.block_tokens,
                                                .batch_rows_max = record.head.config.limits.batch_tokens_max,
                                                .max_model_len = record.head.config.model_tokens_max}));
  TRY(const auto arena, kv::KvArena::create(record.head.layout, record.head.arena_blocks,
                                            record.head.config.handover.incarnation));
  TRY(const engine::ReplayReport report, engine::replay(record, *loaded.model, *arena));
  if (report.is_same())
    return Verdict{true, fmt::format("{} steps, {} tokens: equal to the bit", report.steps, report.tokens)};
  return Verdict{
      false, fmt::format("step {} of {} differs from the record", *report.first_difference, report.steps)};
}

// ---- receipts ----

Result<std::string> read_file(const std::string& path, size_t bytes_max) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  std::string piece(64 * 1024, '\0');
  while (file && text.size() <= bytes_max) {
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    text.append(piece, 0, static_cast<size_t>(file.gcount()));
  }
  if (!file.eof() && text.size() <= bytes_max)
    return fail(Code::kNotFound, fmt::format("{}: cannot be read", path));
  if (text.size() <= bytes_max) return text;
  return fail(Code::kExhausted,
              fmt::format("{}: more than {} bytes, expected at most that", path, bytes_max));
}

// The prompts of a request's body as `served` tokenises them.
Result<std::vector<std::vector<TokenId>>> tokenise(const ServedModel& served, const std::string& body) {
  const api::RequestLimits limits{
      .max_logprobs = engine::kLogprobsMax, .vocab_size = served.vocab_size, .trust_chat_template = true};
  TRY(const api::json::object object, api::parse_json_object(body));
  std::vector<std::vector<TokenId>> out;
  if (object.contains("messages")) {
    TRY(api::ChatRequest chat, api::parse_chat_request(body, limits));
    api::normalise_messages(chat.messages);
    TRY(TokenizedPrompt prompt, tokenize_chat(served, chat));
    out.push_back(std::move(prompt.tokens));
    return out;
  }
  TRY(const api::CompletionRequest request, api::parse_completion_request(body, limits));
  for (const api::Prompt& one : request.prompts) {
    TRY(TokenizedPrompt prompt, tokenize_prompt(served, one, request.add_special_tokens));
    out.push_back(std::move(prompt.tokens));
  }
  return out;
}

// Puts the prompts of the request into a receipt that has their hashes alone.
Result<void> add_prompts(const options::ReplayOptions& options, const ServedModel& served,
                         api::Receipt& receipt) {
  TRY(const std::string body, read_file(options.request, api::kBodyBytesMax));
  auto prompts = tokenise(served, body);
  if (!prompts)
    return fail(prompts.error().code, fmt::format("{}: {}", options.request, prompts.error().message));
  if (prompts->size() != receipt.prompts.size()) {
    return fail(Code::kInvalid, fmt::format("{}: {} prompts, expected the receipt's {}", options.request,
                                            prompts->size(), receipt.prompts.size()));
  }
  for (size_t i = 0; i < prompts->size(); ++i) {
    api::ReceiptTokens own = receipt_of_tokens((*prompts)[i], true);
    api::ReceiptTokens& claimed = receipt.prompts[i].tokens;
    if (own.hash != claimed.hash || own.count != claimed.count) {
      return fail(
          Code::kInvalid,
          fmt::format("receipt.prompts[{}].tokens: {} with hash {}, the request's prompt has {} with hash {}",
                      i, claimed.count, claimed.hash, own.count, own.hash));
    }
    claimed = std::move(own);
  }
  return {};
}

Result<ServedModel> served_model(const std::string& directory, const model::ModelInfo& info) {
  TRY(auto tokenizer, text::Tokenizer::load(directory));
  ServedModel served(std::move(tokenizer));
  served.vocab_size = static_cast<int32_t>(info.vocab_size);
  served.max_model_len = static_cast<int32_t>(info.max_position);
  if (auto chat = text::ChatTemplate::load(directory)) {
    served.special_tokens = chat->special_tokens();
    served.chat_template = std::move(*chat);
  } else {
    served.chat_template_missing = chat.error().message;
  }
  return served;
}

Result<Verdict> replay_receipt(const options::ReplayOptions& options) {
  TRY(const std::string text, read_file(options.file, api::kReceiptBytesMax));
  auto claimed = api::parse_receipt(text);
  if (!claimed)
    return fail(claimed.error().code, fmt::format("{}: {}", options.file, claimed.error().message));
  TRY(const Loaded loaded,
      load(options.model, {.dtype = choice_of(claimed->dtype == dtype_name(DType::kF32))}));
  const model::ModelInfo& info = loaded.model->info();
  if (info.fingerprint != claimed->fingerprint) {
    return fail(Code::kInvalid, fmt::format("receipt.fingerprint: {}, the model in {} has {}",
                                            claimed->fingerprint, options.model, info.fingerprint));
  }
  TRY(const ServedModel served, served_model(options.model, info));
  if (!options.request.empty()) TRY_DO(add_prompts(options, served, *claimed));
  TRY(const api::Receipt again, recompute(*claimed, *loaded.model, served.tokenizer));
  if (const auto difference = api::first_difference(*claimed, again, {"in the receipt", "recomputed"}))
    return Verdict{false, *difference};
  size_t choices = 0;
  int64_t tokens = 0;
  for (const api::ReceiptPrompt& prompt : again.prompts) {
    choices += prompt.choices.size();
    for (const api::ReceiptChoice& choice : prompt.choices) tokens += choice.tokens.count;
  }
  return Verdict{true, fmt::format("{} prompt(s), {} choice(s), {} tokens: equal to the bit",
                                   again.prompts.size(), choices, tokens)};
}

// A receipt is a JSON object; everything else is read as a flight record, which says what is wrong with it.
bool is_receipt(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char first = 0;
  while (file.get(first) && (first == ' ' || first == '\t' || first == '\r' || first == '\n')) {
  }
  return file && first == '{';
}

}  // namespace

int run_replay(std::span<const std::string> arguments) {
  const auto options = options::parse_replay(arguments);
  if (!options) {
    fmt::print(stderr, "baton replay: {}\n", options.error().message);
    return 2;
  }
  if (options->help) {
    fmt::print("{}", options::help_text(options::replay_command()));
    return 0;
  }
  const auto verdict = is_receipt(options->file) ? replay_receipt(*options) : replay_record(*options);
  if (!verdict) {
    fmt::print(stderr, "baton replay: {}\n", verdict.error().message);
    return 1;
  }
  fmt::print("{}\n", verdict->text);
  return verdict->is_same ? 0 : 1;
}

}  // namespace baton::serve
