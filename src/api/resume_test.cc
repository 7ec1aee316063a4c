#include "api/resume.h"

#include <gtest/gtest.h>

namespace baton::api {
namespace {

constexpr int32_t kVocab = 100;

ResumeHead head() {
  return {
      .id = "chatcmpl-\"a", .created = 1700000000, .seed = UINT64_MAX, .cached_tokens = 16, .digest = 255};
}

std::string line_of(const ResumeNote& note) {
  std::string line;
  append_resume_note(line, note);
  EXPECT_EQ(line.find('\n'), line.size() - 1) << line;
  return line.substr(0, line.size() - 1);
}

std::optional<Resumption> sum_of(const std::vector<ResumeNote>& notes) {
  std::optional<Resumption> sum;
  for (const ResumeNote& note : notes) EXPECT_TRUE(add_note(sum, note)) << line_of(note);
  return sum;
}

TEST(ResumeNote, IsOneLineOfCommentWithTheIdsOfItsEvent) {
  EXPECT_EQ(line_of({.head = head(), .choices = {{.index = 0, .ids = {}}}}),
            R"(: baton {"head":{"id":"chatcmpl-\"a","created":1700000000,"seed":18446744073709551615,)"
            R"("cached_tokens":16,"digest":"00000000000000ff"},"choices":[{"index":0,"ids":[]}]})");
  EXPECT_EQ(line_of({.head = {}, .choices = {{.index = 1, .ids = {7, 9}, .finished = true}}}),
            R"(: baton {"choices":[{"index":1,"ids":[7,9],"finished":true}]})");
  EXPECT_EQ(line_of({.head = {}, .choices = {}, .returned = true}), ": baton returned");
}

TEST(ResumeNote, ReadsBackAsItWasWritten) {
  const ResumeNote notes[] = {
      {.head = head(), .choices = {{.index = 0, .ids = {1}}, {.index = 3, .ids = {}, .finished = true}}},
      {.head = ResumeHead{.id = "a", .handed_over = true}, .choices = {}},
      {.head = {}, .choices = {{.index = 0, .ids = {0, 2147483646}}}},
      {.head = {}, .choices = {}},
      {.head = {}, .choices = {}, .returned = true}};
  for (const ResumeNote& note : notes) EXPECT_EQ(parse_resume_note(line_of(note)), note) << line_of(note);
}

TEST(ResumeNote, WhatIsNoneIsRefusedByTheNameOfTheField) {
  const std::pair<const char*, const char*> rows[] = {
      {"data: {}", "note"},
      {": baton ", "body"},
      {": baton []", "body"},
      {": baton returned ", "body"},
      {R"(: baton {"choices":{}})", "choices"},
      {R"(: baton {"choices":[1]})", "choices"},
      {R"(: baton {"choices":[{"ids":[]}]})", "index"},
      {R"(: baton {"choices":[{"index":1024,"ids":[]}]})", "index"},
      {R"(: baton {"choices":[{"index":0,"ids":[-1]}]})", "choices[0].ids[0]"},
      {R"(: baton {"head":{"created":1,"seed":1,"digest":"00000000000000ff"},"choices":[]})", "head.id"},
      {R"(: baton {"head":{"id":"a","seed":-1,"digest":"00000000000000ff"},"choices":[]})", "head.seed"},
      {R"(: baton {"head":{"id":"a","seed":1,"digest":"ff"},"choices":[]})", "head.digest"},
      {R"(: baton {"head":{"id":"a","seed":1,"digest":"00000000000000fg"},"choices":[]})", "head.digest"}};
  for (const auto& [line, field] : rows) {
    const auto note = parse_resume_note(line);
    ASSERT_FALSE(note) << line;
    EXPECT_EQ(note.error().code, Code::kInvalid);
    EXPECT_TRUE(note.error().message.starts_with("baton_resume.")) << note.error().message;
    EXPECT_NE(note.error().message.find(field), std::string::npos) << note.error().message;
  }
}

TEST(Resumption, IsTheSumOfTheNotesOfWhatHasGoneOut) {
  const auto sum = sum_of({{.head = head(), .choices = {{.index = 0, .ids = {}}}},
                           {.head = {}, .choices = {{.index = 0, .ids = {4}}}},
                           {.head = {}, .choices = {{.index = 2, .ids = {5, 6}}}},
                           {.head = {}, .choices = {{.index = 0, .ids = {7}, .finished = true}}}});
  ASSERT_TRUE(sum);
  EXPECT_EQ(*sum, (Resumption{.head = head(),
                              .choices = {{.token_ids = {4, 7}, .begun = true, .finished = true},
                                          {},
                                          {.token_ids = {5, 6}, .begun = true}}}));
  EXPECT_EQ(count_ids(*sum), 4U);
  EXPECT_TRUE(
      sum_of({{.head = head(), .choices = {{.index = 0, .ids = {1}, .finished = true}}}, {}})->usage_sent);
}

TEST(Resumption, ANoteThatDoesNotFitEndsIt) {
  const ResumeNote first{.head = head(), .choices = {{.index = 0, .ids = {1}, .finished = true}}};
  std::optional<Resumption> none;
  EXPECT_FALSE(add_note(none, {.head = {}, .choices = {{.index = 0, .ids = {1}}}}));
  EXPECT_FALSE(none);
  auto twice = sum_of({first});
  EXPECT_FALSE(add_note(twice, first));
  auto behind = sum_of({first});
  EXPECT_FALSE(add_note(behind, {.head = {}, .choices = {{.index = 0, .ids = {1}}}}));
  auto long_answer = sum_of({{.head = head(), .choices = {{.index = 0, .ids = {}}}}});
  const auto full =
      add_note(long_answer,
               {.head = {}, .choices = {{.index = 0, .ids = std::vector<TokenId>(kResumeIdsMax + 1, 1)}}});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, Code::kExhausted);
}

TEST(Resumption, ReadsBackAsItWasWritten) {
  const Resumption one{.head = head(),
                       .choices = {{.token_ids = {1, 99}, .begun = true},
                                   {},
                                   {.token_ids = {}, .begun = true},
                                   {.token_ids = {3}, .begun = true, .finished = true}},
                       .usage_sent = true};
  EXPECT_EQ(parse_resumption(render_resumption(one), kVocab), one);
}

TEST(Resumption, IdsOutsideTheVocabularyAreRefusedByPlace) {
  Resumption one{.head = head(), .choices = {{}, {.token_ids = {1, 100}, .begun = true}}};
  const auto read = parse_resumption(render_resumption(one), kVocab);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().message,
            "baton_resume.choices[1].token_ids[1]: 100, expected a token id from 0 to 99");
  EXPECT_EQ(read.error().param, "baton_resume");
  EXPECT_EQ(parse_resumption(std::string_view("[1]"), kVocab).error().message,
            "baton_resume: [1], expected an object");
  EXPECT_EQ(parse_resumption(std::string_view("{}"), kVocab).error().message,
            "baton_resume.head, expected the head of the answer's first note");
}

}  // namespace
}  // namespace baton::api
