// Speed of the tokenizer on one core. The texts are prose of the golden data, repeated to a megabyte (so the
// word cache works as it does on long prompts), and words drawn at random, which no cache knows.
#include "text/tokenizer.h"

#include <benchmark/benchmark.h>
#include <simdjson.h>

#include <fstream>
#include <random>

#include "text/incremental_decoder.h"

namespace baton::text {
namespace {

const std::string kTokenizers = "tests/golden/tokenizers/";
constexpr size_t kTextBytes = 1 << 20;

const Tokenizer& tokenizer(bool deepseek) {
  static const Tokenizer qwen3 = Tokenizer::load(kTokenizers + "qwen3").value();
  static const Tokenizer deepseek_v3 = Tokenizer::load(kTokenizers + "deepseek_v3").value();
  return deepseek ? deepseek_v3 : qwen3;
}

// The golden texts for which `wanted` holds, repeated.
template <class Wanted>
std::string golden_text(Wanted wanted) {
  std::ifstream file(kTokenizers + "qwen3/golden.jsonl", std::ios::binary);
  simdjson::dom::parser parser;
  std::string once;
  for (std::string line; std::getline(file, line);) {
    const std::string_view text = parser.parse(line)["text"].get_string().value();
    if (wanted(text)) once.append(text).append("\n");
  }
  std::string text;
  while (text.size() < kTextBytes) text += once;
  return text;
}

// The repository's own pages, repeated.
std::string english() {
  std::string once;
  for (const char* page :
       {"ARCHITECTURE.md", "CONTRIBUTING.md", "tests/golden/RECIPE.md", "models/qwen3-moe/LICENSE"}) {
    std::ifstream file(page, std::ios::binary);
    once.append(std::istreambuf_iterator<char>(file), {});
  }
  std::string text;
  while (!once.empty() && text.size() < kTextBytes) text += once;
  return text;
}

bool is_wide(std::string_view text) {
  size_t wide = 0;
  for (const char c : text) wide += static_cast<unsigned char>(c) >= 0x80 ? 1 : 0;
  return wide * 2 > text.size();
}

std::string random_words() {
  std::mt19937 random(1);
  std::string text;
  while (text.size() < kTextBytes) {
    for (size_t n = 2 + random() % 9; n > 0; --n) text += static_cast<char>('a' + random() % 26);
    text += ' ';
  }
  return text;
}

std::string one_word() {
  std::mt19937 random(1);
  std::string text;
  while (text.size() < 10'000) text += static_cast<char>('a' + random() % 26);
  return text;
}

void encode(benchmark::State& state, const std::string& text) {
  const Tokenizer& subject = tokenizer(state.range(0) != 0);
  size_t ids = 0;
  for (auto _ : state) ids = subject.encode(text, false).value().size();
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
  state.counters["bytes_per_token"] = static_cast<double>(text.size()) / static_cast<double>(ids);
  state.SetLabel(state.range(0) != 0 ? "deepseek_v3" : "qwen3");
}

void EncodeEnglish(benchmark::State& state) { encode(state, english()); }
void EncodeNonLatin(benchmark::State& state) { encode(state, golden_text(is_wide)); }
void EncodeEveryGolden(benchmark::State& state) {
  encode(state, golden_text([](std::string_view) { return true; }));
}
void EncodeRandomWords(benchmark::State& state) { encode(state, random_words()); }
void EncodeOneWordOf10kB(benchmark::State& state) { encode(state, one_word()); }

BENCHMARK(EncodeEnglish)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);
BENCHMARK(EncodeNonLatin)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);
BENCHMARK(EncodeEveryGolden)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);
BENCHMARK(EncodeRandomWords)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);
BENCHMARK(EncodeOneWordOf10kB)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

void Load(benchmark::State& state) {
  const std::string folder = kTokenizers + (state.range(0) != 0 ? "deepseek_v3" : "qwen3");
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::load(folder).value().vocab_size());
  state.SetLabel(state.range(0) != 0 ? "deepseek_v3" : "qwen3");
}
BENCHMARK(Load)->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

void StreamTokens(benchmark::State& state) {
  const Tokenizer& subject = tokenizer(false);
  const std::vector<TokenId> ids = subject.encode(english(), false).value();
  for (auto _ : state) {
    IncrementalDecoder decoder(subject, true);
    for (const TokenId id : ids) benchmark::DoNotOptimize(decoder.push(id));
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(ids.size()));
}
BENCHMARK(StreamTokens)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace baton::text
