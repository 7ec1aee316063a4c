#include "text/bpe/added_tokens.h"

#include <gtest/gtest.h>

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
