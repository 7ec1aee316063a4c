#include "text/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <thread>

#include "text/bpe/byte_alphabet.h"
#include "text/incremental_decoder.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

// The 256 bytes as ids 0 to 255, spelled as in a byte-level vocabulary.
std::string byte_entries() {
  std::string entries;
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string spelled;
    append_utf8(spelled, bpe::spelling_of(static_cast<uint8_t>(byte)));
    if (spelled == "\"" || spelled == "\\") spelled = "\\" + spelled;
    entries += fmt::format("{}\"{}\":{}", byte == 0 ? "" : ",", spelled, byte);
  }
  return entries;
}

// A tokenizer.json that a test changes in one place.
struct Json {
  std::string vocab = byte_entries() + R"(,"ab":256,"abc":257,"Ġab":258)";
  std::string merges = R"(["a","b"],["ab","c"],"Ġ ab")";
  std::string model = R"("type":"BPE")";
  std::string added = R"({"id":300,"content":"<s>","special":true},{"id":301,"content":"<think>"})";
  std::string normalizer = "null";
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true})";
  std::string post_processor = "null";
  std::string decoder = R"({"type":"ByteLevel"})";
  std::string config = "";

  std::string text() const {
    return fmt::format(
        R"({{"normalizer":{},"pre_tokenizer":{},"post_processor":{},"decoder":{},"added_tokens":[{}],)"
        R"("model":{{{},"vocab":{{{}}},"merges":[{}]}}}})",
        normalizer, pre_tokenizer, post_processor, decoder, added, model, vocab, merges);
  }

  Result<Tokenizer> parse() const { return Tokenizer::parse(text(), config); }
};

std::string problem_of(const Json& json) {
  const auto tokenizer = json.parse();
  return tokenizer ? "none" : tokenizer.error().message;
}

using Ids = std::vector<TokenId>;

Ids encoded(const Json& json, std::string_view text, bool add_special_tokens = false) {
  return json.parse().value().encode(text, add_special_tokens).value();
}

template <class Change>
Json changed(Change change) {
  Json json;
  change(json);
  return json;
}

TEST(Tokenizer, NamesThePlaceThatIsWrong) {
  const std::string file = "tokenizer.json: ";
  const struct {
    Json json;
    std::string problem;
  } rows[] = {
      {{}, "none"},
      {changed([](Json& j) { j.merges = R"(["a","b"],["a","b","c"])"; }),
       file + "model.merges[1]: expected 2 symbols, got 3"},
      {changed([](Json& j) { j.merges = R"("a b c")"; }),
       file + "model.merges[0]: expected 2 symbols, got 3"},
      {changed([](Json& j) { j.merges = R"(["a","b"],["ab","zz"])"; }),
       file + "model.merges[1]: symbol \"zz\", expected a token of the vocabulary"},
      {changed([](Json& j) { j.merges = R"(["x","y"])"; }),
       file + "model.merges[0]: \"xy\", expected a token of the vocabulary"},
      {changed([](Json& j) { j.merges = "7"; }), file + "model.merges[0]: 7, expected a pair of symbols"},
      {changed([](Json& j) { j.vocab += R"(,"abd":256)"; }),
       file + "model.vocab: id 256 of \"abd\" is already taken"},
      {changed([](Json& j) { j.vocab += R"(,"ab":400)"; }), file + "model.vocab: \"ab\" is there twice"},
      {changed([](Json& j) { j.vocab += R"(,"x y":400,"x y":401)"; }),
       file + "model.vocab: \"x y\" is there twice"},
      {changed([](Json& j) { j.vocab += R"(,"abd":-1)"; }),
       file + "model.vocab.abd: -1, expected an id from 0 to 4194303"},
      {changed([](Json& j) { j.vocab += R"(,"abd":4194304)"; }),
       file + "model.vocab.abd: 4194304, expected an id from 0 to 4194303"},
      {changed([](Json& j) { j.vocab += R"(,"abd":"x")"; }),
       file + "model.vocab.abd: \"x\", expected an id from 0 to 4194303"},
      {changed([](Json& j) { j.vocab = R"("a":0)", j.merges = ""; }),
       file + "model.vocab: byte 0 (\"Ā\") is missing, expected a token for each"},
      {changed([](Json& j) { j.model = R"("type":"Unigram")"; }),
       file + "model.type: \"Unigram\", expected \"BPE\""},
      {changed([](Json& j) { j.model = R"("byte_fallback":true)"; }),
       file + "model.byte_fallback: true, expected false"},
      {changed([](Json& j) { j.model = R"("dropout":0.1)"; }), file + "model.dropout: 0.1, expected none"},
      {changed([](Json& j) { j.model = R"("end_of_word_suffix":"</w>")"; }),
       file + "model.end_of_word_suffix: \"</w>\", expected none"},
      {changed([](Json& j) { j.added = R"({"id":5,"content":"<s>"})"; }),
       file + "added_tokens[0]: id 5 of \"<s>\" is already taken"},
      {changed([](Json& j) { j.added = R"({"id":5,"content":"ab"})"; }),
       file + "added_tokens[0]: id 5 of \"ab\", expected 256 as in the vocabulary"},
      {changed([](Json& j) { j.added = R"({"id":300,"content":""})"; }),
       file + "added_tokens[0]: content of 0 bytes, expected 1 to 1024"},
      {changed([](Json& j) { j.added = R"({"content":"<s>"})"; }), file + "added_tokens[0].id: missing"},
      {changed([](Json& j) { j.added = R"({"id":300,"content":"x","special":1})"; }),
       file + "added_tokens[0].special: 1, expected true or false"},
      {changed([](Json& j) { j.normalizer = R"({"type":"Sequence","normalizers":[{"type":"Lowercase"}]})"; }),
       file + "normalizer.normalizers[0].type: \"Lowercase\", expected NFC, NFD, NFKC, NFKD or Sequence"},
      {changed([](Json& j) { j.pre_tokenizer = R"({"type":"Metaspace"})"; }),
       file + "pre_tokenizer.type: \"Metaspace\", expected ByteLevel, which must be the last"},
      {changed([](Json& j) { j.pre_tokenizer = "null"; }),
       file + "pre_tokenizer: missing, expected one that ends in ByteLevel"},
      {changed([](Json& j) {
         j.pre_tokenizer =
             R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\h"},"behavior":"Isolated"},)"
             R"({"type":"ByteLevel"}]})";
       }),
       file + "pre_tokenizer.pretokenizers[0].pattern: at byte 0: \\h is not supported"},
      {changed([](Json& j) { j.decoder = R"({"type":"WordPiece"})"; }),
       file + "decoder.type: \"WordPiece\", expected ByteLevel"},
      {changed([](Json& j) { j.post_processor = R"({"type":"BertProcessing"})"; }),
       file + "post_processor.type: \"BertProcessing\", expected TemplateProcessing, ByteLevel or Sequence"},
      {changed([](Json& j) {
         j.post_processor = R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}}],)"
                            R"("special_tokens":{"<s>":{"ids":[299]}}})";
       }),
       file + "post_processor.special_tokens.<s>.ids[0]: 299, expected the id of a token"},
      {changed([](Json& j) { j.config = R"({"add_bos_token":true,"bos_token":null})"; }),
       "tokenizer_config.json: add_bos_token: true, expected false or a token of that name in the "
       "vocabulary"},
      {changed([](Json& j) { j.config = R"({"added_tokens_decoder":{"x":{"content":"y!"}}})"; }),
       "tokenizer_config.json: added_tokens_decoder.x: expected an id from 0 to 4194303"},
  };
  for (const auto& row : rows) EXPECT_EQ(problem_of(row.json), row.problem);
}

TEST(Tokenizer, RefusesFilesThatAreNoJson) {
  const std::string whole = Json().text();
  for (size_t bytes = 0; bytes < whole.size(); bytes += 7) {
    const auto tokenizer = Tokenizer::parse(whole.substr(0, bytes), "");
    ASSERT_FALSE(tokenizer.has_value()) << bytes;
    EXPECT_EQ(tokenizer.error().code, Code::kCorrupt);
    EXPECT_TRUE(tokenizer.error().message.starts_with("tokenizer.json: ")) << tokenizer.error().message;
  }
  EXPECT_EQ(Tokenizer::parse(whole, "{").error().code, Code::kCorrupt);
  EXPECT_EQ(Tokenizer::parse(std::string(1000, '[') + std::string(1000, ']'), "").error().code,
            Code::kCorrupt);
  EXPECT_EQ(Tokenizer::load("/nowhere").error(),
            (Error{Code::kNotFound, "/nowhere/tokenizer.json: no such file"}));
}

TEST(Tokenizer, MergesInTheOrderOfTheFile) {
  const Json json;
  EXPECT_EQ(encoded(json, "abc"), (Ids{257}));
  EXPECT_EQ(encoded(json, " abc"), (Ids{' ', 257}));  // (ab, c) ranks before (Ġ, ab)
  EXPECT_EQ(encoded(json, " ab"), (Ids{258}));
  EXPECT_EQ(encoded(json, "ab<s>ab<think>"), (Ids{256, 300, 256, 301}));
  EXPECT_EQ(encoded(changed([](Json& j) { j.vocab += R"(,"bc":259)"; }), "bc"), (Ids{'b', 'c'}));
}

TEST(Tokenizer, IgnoreMergesKeepsWordsThatAreTokens) {
  const Json json = changed([](Json& j) {
    j.vocab += R"(,"xyz":259)";
    j.model = R"("type":"BPE","ignore_merges":true)";
  });
  EXPECT_EQ(encoded(json, "xyz"), (Ids{259}));
  EXPECT_EQ(encoded(json, "xyzz"), (Ids{'x', 'y', 'z', 'z'}));
}

TEST(Tokenizer, PrefixesASpaceWhereByteLevelSaysSo) {
  const Json json = changed([](Json& j) { j.pre_tokenizer = R"({"type":"ByteLevel"})"; });
  EXPECT_EQ(encoded(json, "ab"), (Ids{258}));
  EXPECT_EQ(encoded(json, " ab"), (Ids{258}));
  EXPECT_EQ(encoded(json, "ab<s>ab"), (Ids{258, 300, 258}));
}

TEST(Tokenizer, SplitsDigits) {
  const char* form = R"({{"type":"Sequence","pretokenizers":[{{"type":"Digits","individual_digits":{}}},)"
                     R"({{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}}]}})";
  for (const bool individual : {false, true}) {
    const Json json = changed([&](Json& j) {
      j.pre_tokenizer = fmt::format(fmt::runtime(form), individual);
      j.vocab += R"(,"12":259,"2x":260)";
      j.merges = R"(["2","x"],["1","2"])";
    });
    EXPECT_EQ(encoded(json, "12x"), individual ? (Ids{'1', '2', 'x'}) : (Ids{259, 'x'}));
  }
}

TEST(Tokenizer, NormalisesOnlyBetweenTheTokensThatAreNotNormalised) {
  const Json json = changed([](Json& j) {
    j.normalizer = R"({"type":"NFC"})";
    j.added =
        R"({"id":300,"content":"e\u0301!","normalized":false},{"id":301,"content":"a\u0308?","normalized":true})";
  });
  const Tokenizer tokenizer = json.parse().value();
  EXPECT_EQ(tokenizer.encode("e\xCC\x81!", false).value(), (Ids{300}));
  EXPECT_EQ(tokenizer.encode("\xC3\xA9!", false).value(), (Ids{0xC3, 0xA9, '!'}));
  EXPECT_EQ(tokenizer.encode("a\xCC\x88?", false).value(), (Ids{301}));
  EXPECT_EQ(tokenizer.encode("\xC3\xA4?", false).value(), (Ids{301}));
  EXPECT_EQ(tokenizer.encode("e\xCC\x81", false).value(), (Ids{0xC3, 0xA9}));
}

TEST(Tokenizer, PutsSpecialTokensAroundAsProcessorAndConfigSay) {
  const std::string processor =
      R"({"type":"Sequence","processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing",)"
      R"("single":[{"SpecialToken":{"id":"B"}},{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"E"}}],)"
      R"("special_tokens":{"B":{"ids":[300]},"E":{"ids":[301]}}}]})";
  const struct {
    std::string post_processor;
    std::string config;
    Ids expected;
  } rows[] = {
      {"null", "", {'x'}},
      {"null", R"({"bos_token":"<s>"})", {'x'}},
      {"null", R"({"bos_token":"<s>","add_bos_token":true})", {300, 'x'}},
      {"null", R"({"eos_token":{"content":"<s>"},"add_eos_token":true})", {'x', 300}},
      {processor, "", {300, 'x', 301}},
      {processor, R"({"bos_token":"<s>","add_bos_token":true})", {300, 'x', 301}},
      {processor, R"({"bos_token":"<s>","add_bos_token":false})", {'x', 301}},
      {processor, R"({"eos_token":"<think>","add_eos_token":false})", {300, 'x'}},
  };
  for (const auto& row : rows) {
    const Json json = changed([&](Json& j) { j.post_processor = row.post_processor, j.config = row.config; });
    EXPECT_EQ(encoded(json, "x", true), row.expected) << row.config;
    EXPECT_EQ(encoded(json, "x", false), (Ids{'x'}));
  }
}

TEST(Tokenizer, ConfigNamesTokensAndAddsThem) {
  const Json json = changed([](Json& j) {
    j.config =
        R"({"bos_token":"<s>","eos_token":"<think>","model_max_length":1000000000000000019884624838656,)"
        R"("added_tokens_decoder":{"300":{"content":"<s>"},"305":{"content":"<x>","special":false}}})";
  });
  const Tokenizer tokenizer = json.parse().value();
  EXPECT_EQ(tokenizer.bos_id(), 300);
  EXPECT_EQ(tokenizer.eos_id(), 301);
  EXPECT_TRUE(tokenizer.is_special(301));  // by its role
  EXPECT_EQ(tokenizer.encode("<x>", false).value(), (Ids{305}));
  EXPECT_EQ(tokenizer.vocab_size(), 306U);
  const Json split = changed([](Json& j) { j.config = R"({"split_special_tokens":true})"; });
  EXPECT_EQ(encoded(split, "<s>"), (Ids{'<', 's', '>'}));
}

TEST(Tokenizer, DecodesEveryIdToSomething) {
  const Tokenizer tokenizer = Json().parse().value();
  EXPECT_EQ(tokenizer.decode(Ids{256, 300, 301}, false), "ab<s><think>");
  EXPECT_EQ(tokenizer.decode(Ids{256, 300, 301}, true), "ab<think>");
  EXPECT_EQ(tokenizer.decode(Ids{299, -1, 1 << 30, 'x'}, false), "x");
  EXPECT_EQ(tokenizer.decode(Ids{0xE2, 0x82, 'x', 0xE2}, false), "\xEF\xBF\xBDx\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer.token_bytes(0xE2), "\xE2");
  EXPECT_EQ(tokenizer.token_text(0xE2), "\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer.token_bytes(299), "");
  EXPECT_EQ(tokenizer.id_of(" ab"), 258);
  EXPECT_EQ(tokenizer.id_of("<s>"), 300);
  EXPECT_EQ(tokenizer.id_of("nothing"), std::nullopt);
  EXPECT_FALSE(tokenizer.is_special(-1));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const auto ids = Json().parse().value().encode("caf\xC3", false);
  ASSERT_FALSE(ids.has_value());
  EXPECT_EQ(ids.error(), (Error{Code::kInvalid, "text: byte 0xc3 at 3, expected UTF-8"}));
}

TEST(Tokenizer, SaysWhenARegexGoesTooFar) {
  const Json json = changed([](Json& j) {
    j.pre_tokenizer =
        R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?:a+a+)+b"},)"
        R"("behavior":"Isolated"},{"type":"ByteLevel"}]})";
  });
  const auto ids = json.parse().value().encode(std::string(60, 'a') + "cb", false);
  ASSERT_FALSE(ids.has_value());
  EXPECT_EQ(ids.error().code, Code::kExhausted);
}

TEST(Tokenizer, GivesTheSameIdsOnEveryThreadAndWithEveryCache) {
  const std::string golden = std::string(BATON_SOURCE_DIR) + "/tests/golden/checkpoints/";
  const Tokenizer qwen = Tokenizer::load(golden + "qwen3").value();
  const Tokenizer llama = Tokenizer::load(golden + "llama").value();
  const std::string text =
      "The request takes its KV blocks once, and gives them back 1234 times. \xF0\x9F\x98\x80 ";
  const Ids qwen_ids = qwen.encode(text, true).value();
  const Ids llama_ids = llama.encode(text, true).value();
  ASSERT_NE(qwen_ids, llama_ids);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {  // two tokenizers by turns share one thread's cache
        EXPECT_EQ(qwen.encode(text, true).value(), qwen_ids);
        EXPECT_EQ(llama.encode(text, true).value(), llama_ids);
        EXPECT_EQ(qwen.decode(qwen_ids, true), text);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(IncrementalDecoder, FollowsTheRuleOnAnyIds) {
  const Tokenizer tokenizer = Json().parse().value();
  const TokenId some[] = {'a', 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0xEF, 0xBF, 0xBD, 256, 300, 999, 0xFF};
  uint32_t state = 1;
  for (int round = 0; round < 3000; ++round) {
    IncrementalDecoder decoder(tokenizer, true);
    Ids ids;
    std::string emitted;
    for (int n = 0; n < 12; ++n) {
      state = state * 1664525 + 1013904223;
      ids.push_back(some[(state >> 16) % std::size(some)]);
      const std::string whole = tokenizer.decode(ids, true);
      const std::string piece = decoder.push(ids.back());
      ASSERT_EQ(piece, whole.ends_with(kReplacementCharacter) ? "" : whole.substr(emitted.size()));
      emitted += piece;
    }
    ASSERT_EQ(emitted + decoder.flush(), tokenizer.decode(ids, true));
  }
}

}  // namespace
}  // namespace baton::text
