// What the engine hears of a request whose client leaves, at each moment of its life.
#include "serve/engine_client.h"

#include <gtest/gtest.h>

#include <memory>

#include "http/testing.h"

namespace baton::serve {
namespace {

std::string name_of(const engine::Inbox& item) {
  if (std::holds_alternative<engine::Submit>(item)) return "submit";
  if (const auto* abort = std::get_if<engine::Abort>(&item))
    return "abort " + std::to_string(value(abort->request));
  if (const auto* stop = std::get_if<engine::StopChoice>(&item)) {
    return "stop " + std::to_string(value(stop->request)) + "." + std::to_string(stop->choice);
  }
  return std::holds_alternative<engine::ReleaseHeld>(item) ? "release" : "other";
}

template <class Event>
Event event_of(RequestId id) {
  Event event;
  event.request = id;
  return event;
}

struct Rig {
  std::vector<std::string> heard;
  bool full = false;
  std::unique_ptr<EngineClient> client;
  http::LoopThread loop;

  Rig() {
    client = std::make_unique<EngineClient>(loop.loop(), [this](const engine::Inbox& item) {
      if (!full) heard.push_back(name_of(item));
      return !full;
    });
  }

  static engine::Request request(bool hold) {
    engine::Request out;
    out.external_id = "x";
    if (hold) out.hold = HandoverId{{1}};
    return out;
  }
};

enum class Stage { kSubmitted, kPrompt, kTokens, kFinished, kFailed, kKept };

TEST(Submission, LeavingAbortsWhatRunsAndReleasesWhatIsHeld) {
  struct Row {
    Stage stage;
    bool hold;
    std::vector<std::string> heard;  // after the Submit
  };
  const Row rows[] = {
      {Stage::kSubmitted, false, {"abort 1"}},
      {Stage::kSubmitted, true, {"abort 1", "release"}},
      {Stage::kPrompt, false, {"abort 1"}},
      {Stage::kPrompt, true, {"abort 1", "release"}},
      {Stage::kTokens, false, {"abort 1"}},
      {Stage::kTokens, true, {"abort 1", "release"}},
      {Stage::kFinished, false, {}},
      {Stage::kFinished, true, {"release"}},
      {Stage::kFailed, false, {}},
      {Stage::kFailed, true, {"release"}},
      {Stage::kKept, true, {}},
  };
  for (const Row& row : rows) {
    Rig rig;
    rig.loop.call([&] {
      Submission submission(*rig.client);
      ASSERT_TRUE(submission.add(Rig::request(row.hold), 0));
      rig.heard.clear();
      constexpr RequestId kId{1};
      if (row.stage >= Stage::kPrompt) rig.client->deliver({event_of<engine::PromptEvent>(kId)});
      if (row.stage >= Stage::kTokens) rig.client->deliver({event_of<engine::TokensEvent>(kId)});
      if (row.stage == Stage::kFinished || row.stage == Stage::kKept) {
        rig.client->deliver({event_of<engine::FinishedEvent>(kId)});
      }
      if (row.stage == Stage::kFailed)
        rig.client->deliver({engine::FailedEvent{.request = kId, .error = {}}});
      EXPECT_EQ(rig.client->open(), row.stage >= Stage::kFinished ? 0U : 1U);
      if (row.stage == Stage::kKept) submission.keep_held();
    });
    EXPECT_EQ(rig.heard, row.heard) << static_cast<int>(row.stage) << (row.hold ? " held" : "");
    EXPECT_EQ(rig.client->open(), 0U);
    // Answers that were under way go nowhere.
    rig.loop.call([&] { rig.client->deliver({event_of<engine::FinishedEvent>(RequestId{1})}); });
  }
}

TEST(Submission, AFullInboxRefusesAndOpensNothing) {
  Rig rig;
  rig.full = true;
  rig.loop.call([&] {
    Submission submission(*rig.client);
    const auto added = submission.add(Rig::request(false), 0);
    ASSERT_FALSE(added);
    EXPECT_EQ(added.error().code, Code::kExhausted);
    EXPECT_EQ(rig.client->open(), 0U);
    rig.full = false;
  });
  EXPECT_TRUE(rig.heard.empty());
}

TEST(Submission, StopChoiceAndAbortByNameReachTheirRequestOnly) {
  Rig rig;
  rig.loop.call([&] {
    Submission submission(*rig.client);
    ASSERT_TRUE(submission.add(Rig::request(false), 0));
    engine::Request other = Rig::request(false);
    other.external_id = "y";
    ASSERT_TRUE(submission.add(std::move(other), 1));
    rig.heard.clear();
    submission.stop_choice(1, 3);
    EXPECT_EQ(rig.client->abort_external("x", "why"), 1U);
    EXPECT_EQ(rig.client->abort_external("nobody", "why"), 0U);
    EXPECT_EQ(rig.heard, (std::vector<std::string>{"stop 2.3", "abort 1"}));
  });
}

http::Awaitable<void> read_once(Submission& submission, Result<std::vector<Submission::Tagged>>& out) {
  out = co_await submission.next();
}

TEST(Submission, AnswersWaitUpToABoundThenTheReaderHasLost) {
  for (const bool beyond : {false, true}) {
    Rig rig;
    Result<std::vector<Submission::Tagged>> got;
    std::unique_ptr<Submission> submission;
    rig.loop.call([&] {
      submission = std::make_unique<Submission>(*rig.client);
      ASSERT_TRUE(submission->add(Rig::request(false), 7));
      std::vector<engine::Answer> many(kAnswersWaitingMax + (beyond ? 1 : 0),
                                       event_of<engine::TokensEvent>(RequestId{1}));
      rig.client->deliver(std::move(many));
    });
    rig.loop.await(read_once(*submission, got));
    if (beyond) {
      ASSERT_FALSE(got);
      EXPECT_EQ(got.error().code, Code::kExhausted);
    } else {
      ASSERT_TRUE(got);
      EXPECT_EQ(got->size(), kAnswersWaitingMax);
      EXPECT_EQ(got->front().tag, 7U);
    }
    rig.loop.call([&] { submission.reset(); });
    EXPECT_EQ(rig.heard.back(), "abort 1");
  }
}

}  // namespace
}  // namespace baton::serve
