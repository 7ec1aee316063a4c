// Every line that Hugging Face's tokenizers gave (tests/golden/RECIPE.md), for real tokenizers and tiny ones.
#include <gtest/gtest.h>
#include <simdjson.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "text/incremental_decoder.h"
#include "text/tokenizer.h"

namespace baton::text {
namespace {

using simdjson::dom::element;

const std::string kGolden = std::string(BATON_SOURCE_DIR) + "/tests/golden";

std::vector<TokenId> ids_of(element row, const char* name) {
  std::vector<TokenId> ids;
  for (const element id : row[name].get_array().value())
    ids.push_back(static_cast<TokenId>(id.get_int64().value()));
  return ids;
}

std::string text_of(element row, const char* name) { return std::string(row[name].get_string().value()); }

// Calls `check` with each line of a JSON-lines file; returns how many there were.
template <class Check>
size_t for_each_row(const std::string& path, Check check) {
  std::ifstream file(path, std::ios::binary);
  simdjson::dom::parser parser;
  size_t rows = 0;
  for (std::string line; std::getline(file, line, '\n'); ++rows) {
    SCOPED_TRACE(path + ":" + std::to_string(rows + 1));
    check(parser.parse(line).value());
  }
  return rows;
}

void check_texts(const Tokenizer& tokenizer, const std::string& path) {
  const size_t rows = for_each_row(path, [&](element row) {
    const std::string text = text_of(row, "text");
    const std::vector<TokenId> ids = ids_of(row, "ids");
    EXPECT_EQ(tokenizer.encode(text, false).value(), ids) << text;
    EXPECT_EQ(tokenizer.encode(text, true).value(), ids_of(row, "ids_with_special")) << text;
    EXPECT_EQ(tokenizer.decode(ids, false), text_of(row, "decoded"));
    EXPECT_EQ(tokenizer.decode(ids, true), text_of(row, "decoded_skip_special"));
  });
  EXPECT_GT(rows, 400U);
}

void check_streams(const Tokenizer& tokenizer, const std::string& path) {
  const size_t rows = for_each_row(path, [&](element row) {
    const std::vector<TokenId> ids = ids_of(row, "ids");
    const bool skip_special = row["skip_special"].get_bool().value();
    IncrementalDecoder decoder(tokenizer, skip_special);
    std::string joined;
    size_t i = 0;
    for (const element piece : row["pieces"].get_array().value()) {
      const std::string text = decoder.push(ids[i++]);
      EXPECT_EQ(text, piece.get_string().value()) << "piece " << i - 1;
      joined += text;
    }
    const std::string rest = decoder.flush();
    EXPECT_EQ(rest, text_of(row, "flush"));
    EXPECT_EQ(joined + rest, tokenizer.decode(ids, skip_special));
  });
  EXPECT_GT(rows, 100U);
}

void check_folder(const std::string& folder) {
  const auto tokenizer = Tokenizer::load(folder);
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  check_texts(*tokenizer, folder + "/golden.jsonl");
  check_streams(*tokenizer, folder + "/stream.jsonl");
}

TEST(TokenizerGolden, Qwen3) { check_folder(kGolden + "/tokenizers/qwen3"); }

TEST(TokenizerGolden, DeepseekV3) { check_folder(kGolden + "/tokenizers/deepseek_v3"); }

TEST(TokenizerGolden, Llama3WhereItsDataIs) {
  const char* data = std::getenv("BATON_TEST_DATA");
  const std::string folder = std::string(data ? data : "") + "/tokenizers/llama3";
  if (data == nullptr || !std::filesystem::exists(folder)) {
    GTEST_SKIP()
        << "BATON_TEST_DATA names no folder with tokenizers/llama3 (its licence keeps it out of here)";
  }
  check_folder(folder);
}

TEST(TokenizerGolden, TinyCheckpointsLoadAndRoundTrip) {
  for (const char* name : {"llama", "llama-f16", "qwen2", "qwen3", "qwen3-moe", "qwen3-sharded"}) {
    SCOPED_TRACE(name);
    const auto tokenizer = Tokenizer::load(kGolden + "/checkpoints/" + name);
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    const bool llama = std::string_view(name).starts_with("llama");
    EXPECT_EQ(tokenizer->vocab_size(), 1000U);
    for_each_row(kGolden + "/tokenizers/qwen3/golden.jsonl", [&](element row) {
      const std::string text = text_of(row, "decoded");  // NFC already
      const std::vector<TokenId> ids = tokenizer->encode(text, false).value();
      EXPECT_EQ(tokenizer->decode(ids, false), text);
      std::vector<TokenId> with_special = ids;
      if (llama) with_special.insert(with_special.begin(), 992);
      EXPECT_EQ(tokenizer->encode(text, true).value(), with_special);
    });
  }
}

}  // namespace
}  // namespace baton::text
