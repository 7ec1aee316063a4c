#include "text/bpe/added_tokens.h"

#include <gtest/gtest.h>

#include <random>

namespace baton::text::bpe {
namespace {

AddedToken token(TokenId id, std::string content) {
  AddedToken made;
  made.id = id;
  made.content = std::move(content);
  return made;
}

// The pieces as text: added tokens in brackets.
std::string pieces_of(const std::vector<AddedToken>& tokens, std::string_view text) {
  AddedTokenFinder finder;
  for (const AddedToken& added : tokens) finder.add(added.content, added);
  std::vector<AddedPiece> pieces;
  finder.split(text, pieces);
  std::string shown;
  for (const AddedPiece& piece : pieces) {
    const std::string_view part = text.substr(piece.range.begin, piece.range.end - piece.range.begin);
    shown += piece.id < 0 ? std::string(part) + "|"
                          : "[" + std::to_string(piece.id) + ":" + std::string(part) + "]";
  }
  return shown;
}

TEST(AddedTokens, TheLongestOfTheLeftmostCounts) {
  const std::vector<AddedToken> tokens = {token(1, "<a>"), token(2, "<a><b>"), token(3, "b>c"),
                                          token(4, "<")};
  EXPECT_EQ(pieces_of(tokens, "x<a>y"), "x|[1:<a>]y|");
  EXPECT_EQ(pieces_of(tokens, "<a><b>c"), "[2:<a><b>]c|");
  EXPECT_EQ(pieces_of(tokens, "<a><b"), "[1:<a>][4:<]b|");
  EXPECT_EQ(pieces_of(tokens, "<<a>"), "[4:<][1:<a>]");
  EXPECT_EQ(pieces_of(tokens, "b>c"), "[3:b>c]");
  EXPECT_EQ(pieces_of(tokens, ""), "");
  EXPECT_EQ(pieces_of({}, "<a>"), "<a>|");
}

TEST(AddedTokens, TakeTheWhiteSpaceThatTheirFlagsSay) {
  AddedToken left = token(1, "<l>");
  left.lstrip = true;
  AddedToken right = token(2, "<r>");
  right.rstrip = true;
  const std::vector<AddedToken> tokens = {left, right};
  EXPECT_EQ(pieces_of(tokens, "a \t<l> b"), "a|[1: \t<l>] b|");
  EXPECT_EQ(pieces_of(tokens, "a <r>\xE3\x80\x80 b"), "a |[2:<r>\xE3\x80\x80 ]b|");
  EXPECT_EQ(pieces_of(tokens, "<r>  <l>"), "[2:<r>  ][1:<l>]");
}

// Tokens that are white space themselves, so that each match lies in the white space around the others.
TEST(AddedTokens, LookForWhiteSpaceInLinearTime) {
  for (const bool right : {false, true}) {
    for (const bool left : {false, true}) {
      for (const char* content : {" ", "\n\n", "\xE3\x80\x80", "<a>"}) {
        AddedToken blank = token(1, content);
        blank.lstrip = left;
        blank.rstrip = right;
        AddedToken plain = token(2, "\t");
        AddedTokenFinder finder;
        finder.add(blank.content, blank);
        finder.add(plain.content, plain);
        std::string text;
        for (size_t i = 0; i < 5000; ++i) text += i % 100 == 0 ? "\t" : i % 3 == 0 ? content : " ";
        std::vector<AddedPiece> pieces;
        const size_t looked_at = finder.split(text, pieces);
        EXPECT_LE(looked_at, 2 * (text.size() + pieces.size())) << content << left << right;
      }
    }
  }
}

// By the rules alone: a match takes the white space before it that no match before it took, and all behind
// it.
std::string pieces_by_rules(const std::vector<AddedToken>& tokens, std::string_view text) {
  std::string shown;
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    const AddedToken* found = nullptr;
    for (const AddedToken& added : tokens) {
      const bool longer = found == nullptr || added.content.size() > found->content.size();
      if (longer && text.substr(at).starts_with(added.content)) found = &added;
    }
    if (found == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + found->content.size();
    at = end;
    while (found->lstrip && begin > 0 && text[begin - 1] == ' ') --begin;
    begin = found->lstrip ? std::max(begin, done) : begin;
    while (found->rstrip && end < text.size() && text[end] == ' ') ++end;
    if (done < begin) shown += std::string(text.substr(done, begin - done)) + "|";
    if (begin < end)
      shown += "[" + std::to_string(found->id) + ":" + std::string(text.substr(begin, end - begin)) + "]";
    done = end;
  }
  if (done < text.size()) shown += std::string(text.substr(done)) + "|";
  return shown;
}

TEST(AddedTokens, TakeWhiteSpaceAsTheRulesSayOfAnyText) {
  std::minstd_rand random(5);
  for (int run = 0; run < 2000; ++run) {
    std::vector<AddedToken> tokens;
    TokenId id = 1;
    for (const char* content : {" ", "  x", "x", "x ", "y"}) {
      tokens.push_back(token(id++, content));
      tokens.back().lstrip = random() % 2 == 0;
      tokens.back().rstrip = random() % 2 == 0;
      if (random() % 2 == 0) tokens.pop_back();
    }
    std::string text;
    for (size_t i = random() % 24; i > 0; --i) text += "   xyz"[random() % 6];
    EXPECT_EQ(pieces_of(tokens, text), pieces_by_rules(tokens, text)) << "'" << text << "'";
  }
}

TEST(AddedTokens, ASingleWordTouchesNoWord) {
  AddedToken word = token(1, "new");
  word.single_word = true;
  const std::vector<AddedToken> tokens = {word};
  EXPECT_EQ(pieces_of(tokens, "new news anew (new) new\xCC\x81 \xC3\xA9new"),
            "[1:new] news anew (|[1:new]) new\xCC\x81 \xC3\xA9new|");
  EXPECT_EQ(pieces_of(tokens, "newnew"), "newnew|");
}

}  // namespace
}  // namespace baton::text::bpe
