// An answer that began on another engine: cut after any of its tokens it goes on to the same end.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>

#include "engine/engine.h"
#include "engine/recorder.h"
#include "model/testing.h"

namespace baton::engine {
namespace {

using std::chrono::milliseconds;
using Choices = std::map<uint32_t, std::vector<DrawnToken>>;

struct Seen {
  Choices choices;
  uint32_t cached_tokens = 0;
  uint32_t output_tokens = 0;
  bool finished = false;
  bool returned = false;
  std::optional<Error> error;
  bool ended() const { return finished || returned || error.has_value(); }
};

// One engine on the hash fake, whose logits depend on every byte of KV that a row may read.
struct Place {
  model::FakeModel model;
  std::unique_ptr<kv::KvArena> arena;
  Recorder recorder{::testing::TempDir()};
  std::unique_ptr<Engine> engine;
  std::map<uint64_t, Seen> seen;
  Time now{milliseconds(1)};

  explicit Place(EngineConfig config = {}, uint32_t blocks = 128) {
    config.handover.incarnation = Incarnation{{7}};
    arena = std::move(*kv::KvArena::create(model.info().kv_layout, blocks, config.handover.incarnation));
    Surroundings surroundings;
    surroundings.recorder = &recorder;
    engine = std::make_unique<Engine>(config, model, *arena, std::move(surroundings));
  }

  void step(std::vector<Inbox> inbox = {}) {
    now = now + milliseconds(1);
    for (const Answer& answer : engine->step(std::move(inbox), now).answers) take(answer);
    EXPECT_EQ(engine->find_inconsistency(), "");
  }
  void take(const Answer& answer) {
    Seen& one = seen[std::visit([](const auto& event) { return value(event.request); }, answer)];
    EXPECT_FALSE(one.ended()) << "an answer after the end";
    if (const auto* prompt = std::get_if<PromptEvent>(&answer)) one.cached_tokens = prompt->cached_tokens;
    if (const auto* tokens = std::get_if<TokensEvent>(&answer)) {
      for (const DrawnToken& token : tokens->tokens) one.choices[tokens->choice].push_back(token);
    }
    if (const auto* failed = std::get_if<FailedEvent>(&answer)) one.error = failed->error;
    one.returned = std::holds_alternative<ReturnedEvent>(answer);
    if (const auto* finished = std::get_if<FinishedEvent>(&answer)) {
      one.finished = true;
      one.output_tokens = finished->output_tokens;
    }
  }
  Seen& submit(const Request& request) {
    std::vector<Inbox> inbox;
    inbox.emplace_back(Submit{request});
    step(std::move(inbox));
    return seen[value(request.id)];
  }
  void run() {
    for (int i = 0; i < 20000 && engine->has_work(); ++i) step();
    ASSERT_FALSE(engine->has_work()) << "no end in sight";
  }
  Seen whole(const Request& request) {
    submit(request);
    run();
    EXPECT_EQ(engine->stats().blocks_free, arena->blocks());
    return seen[value(request.id)];
  }
  // What was recorded gives the same once more.
  void expect_replays() const {
    const auto record = parse_record(recorder.bytes());
    ASSERT_TRUE(record) << record.error().message;
    model::FakeModel another;
    const auto fresh =
        std::move(*kv::KvArena::create(another.info().kv_layout, arena->blocks(), Incarnation{{9}}));
    const auto report = replay(*record, another, *fresh);
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_TRUE(report->is_same());
  }
};

Request request_of(uint64_t id, uint32_t prompt = 40) {
  Request request;
  request.id = RequestId{id};
  for (uint32_t i = 0; i < prompt; ++i) request.prompt.push_back(static_cast<TokenId>((i * 7 + 3) % 60));
  request.sampling.max_tokens = 24;
  request.sampling.seed = 11;
  return request;
}

// `request` as its answer goes on behind the first cuts[i] tokens of choice i.
Request resumed(Request request, const Choices& whole, const std::vector<size_t>& cuts) {
  for (size_t i = 0; i < cuts.size(); ++i) {
    const std::vector<DrawnToken>& all = whole.at(static_cast<uint32_t>(i));
    DrawnBefore& before = request.drawn_before.emplace_back();
    for (size_t t = 0; t < cuts[i]; ++t) before.tokens.push_back(all[t].token);
    before.finished = cuts[i] == all.size();
  }
  return request;
}

bool all_finished(const Request& request) {
  return std::ranges::all_of(request.drawn_before, &DrawnBefore::finished);
}

void expect_the_rest(const Seen& rest, const Choices& whole, const std::vector<size_t>& cuts) {
  ASSERT_TRUE(rest.finished) << (rest.error ? rest.error->message : "no end");
  size_t total = 0;
  for (size_t i = 0; i < cuts.size(); ++i) {
    const auto choice = static_cast<uint32_t>(i);
    const std::vector<DrawnToken>& all = whole.at(choice);
    total += all.size();
    const std::vector<DrawnToken> expected(all.begin() + static_cast<ptrdiff_t>(cuts[i]), all.end());
    const auto found = rest.choices.find(choice);
    EXPECT_EQ(found == rest.choices.end() ? std::vector<DrawnToken>{} : found->second, expected)
        << "choice " << i << " behind " << cuts[i];
  }
  EXPECT_EQ(rest.output_tokens, total);
}

void expect_same_at_every_cut(const Request& request, const EngineConfig& there = {}) {
  const Choices whole = Place().whole(request).choices;
  size_t longest = 0;
  for (const auto& [choice, tokens] : whole) longest = std::max(longest, tokens.size());
  for (size_t cut = 0; cut <= longest; ++cut) {
    std::vector<size_t> cuts;
    // Choices are cut at different places, some not begun, some finished.
    for (const auto& [choice, tokens] : whole) cuts.push_back(std::min(tokens.size(), cut / (choice + 1)));
    const Request rest = resumed(request, whole, cuts);
    if (all_finished(rest)) continue;
    Place place(there);
    expect_the_rest(place.whole(rest), whole, cuts);
    place.expect_replays();
  }
}

TEST(Resume, AnAnswerCutAfterAnyTokenGoesOnToTheSameEnd) { expect_same_at_every_cut(request_of(1)); }

TEST(Resume, AlsoWithLogprobsPenaltiesAndATokenThatStopsIt) {
  Request request = request_of(1);
  SamplingParams& p = request.sampling;
  p.logprobs = 3;
  p.repetition_penalty = 1.3F;
  p.presence_penalty = 0.4F;
  p.frequency_penalty = 0.7F;
  p.top_k = 20;
  p.max_tokens = 60;
  p.min_tokens = 8;
  p.eos_token_ids = {5, 6, 7, 8, 9};
  p.stop_token_ids = {20, 21, 22};
  EXPECT_EQ(Place().whole(request).choices.at(0).back().finish, FinishReason::kStop);
  expect_same_at_every_cut(request);
}

TEST(Resume, OfSeveralChoicesEachGoesOnWhereItWas) {
  Request request = request_of(1);
  request.sampling.n = 3;
  request.sampling.logprobs = 1;
  request.sampling.frequency_penalty = 0.5F;
  request.sampling.max_tokens = 40;
  request.sampling.eos_token_ids = {10, 11};
  expect_same_at_every_cut(request);
}

TEST(Resume, WhateverTheChunksOfThePrefillAndThePrefixCache) {
  EngineConfig small;
  small.limits.seqs_max = 2;
  small.limits.batch_tokens_max = 7;
  expect_same_at_every_cut(request_of(1), small);
  small.prefix_cache = false;
  expect_same_at_every_cut(request_of(1), small);
}

TEST(Resume, APromptInThePrefixCacheIsNotComputedAgain) {
  Request request = request_of(1, 64);
  Place place;
  const Choices whole = place.whole(request).choices;
  const uint64_t before = place.model.rows_computed();
  Request rest = resumed(request, whole, {10});
  rest.id = RequestId{2};
  const Seen seen = place.whole(rest);
  expect_the_rest(seen, whole, {10});
  EXPECT_EQ(seen.cached_tokens, 48U);
  EXPECT_LT(place.model.rows_computed() - before, 64U);
}

TEST(Resume, AmongOthersUnderPressureTheAnswersStayWhatTheyAre) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    EngineConfig config;
    config.limits.seqs_max = 2 + random() % 4;
    config.limits.batch_tokens_max = config.limits.seqs_max + random() % 30;
    Place place(config, 10 + random() % 8);
    std::map<uint64_t, std::pair<Choices, std::vector<size_t>>> expected;
    for (uint64_t id = 1; id <= 6; ++id) {
      Request request = request_of(id, 10 + random() % 40);
      request.sampling.seed = random();
      request.sampling.n = 1 + random() % 3;
      request.sampling.max_tokens = 2 + random() % 40;
      request.sampling.frequency_penalty = random() % 2 == 0 ? 0.5F : 0.0F;
      const Choices whole = Place().whole(request).choices;
      std::vector<size_t> cuts;
      for (const auto& [choice, tokens] : whole) cuts.push_back(random() % (tokens.size() + 1));
      Request rest = resumed(request, whole, cuts);
      if (all_finished(rest)) continue;
      expected[id] = {whole, cuts};
      place.submit(rest);
    }
    place.run();
    for (const auto& [id, one] : expected) expect_the_rest(place.seen[id], one.first, one.second);
    EXPECT_EQ(place.engine->stats().blocks_free, place.arena->blocks());
    place.expect_replays();
  }
}

TEST(Resume, AStatementThatNoAnswerOfTheRequestBeginsWithIsRefusedByName) {
  const Request good = request_of(1);
  const auto refusal = [&](const std::function<void(Request&)>& change) {
    Request request = good;
    request.drawn_before = {{.tokens = {1, 2}}};
    change(request);
    const Seen seen = Place().whole(request);
    return seen.error ? seen.error->message : "none";
  };
  EXPECT_EQ(refusal([](Request&) {}), "none");
  EXPECT_EQ(refusal([](Request& r) { r.sampling.n = 2; }), "baton_resume has 1 choices, expected n 2");
  EXPECT_EQ(refusal([](Request& r) { r.drawn_before[0].tokens = {1, 64}; }),
            "baton_resume.choices[0].token_ids[1] is 64, expected 0..63");
  EXPECT_EQ(refusal([](Request& r) { r.drawn_before[0].tokens.assign(24, 1); }),
            "baton_resume.choices[0].token_ids has 24 tokens, expected at most 23 (max_tokens is 24)");
  EXPECT_EQ(refusal([](Request& r) { r.drawn_before[0].finished = true; }),
            "baton_resume has finished choices alone, expected one that goes on");
  EXPECT_EQ(refusal([](Request& r) { r.sampling.eos_token_ids = {2}; }),
            "baton_resume.choices[0].token_ids[1] is 2, which ends the answer, expected one that goes on");
  EXPECT_EQ(refusal([](Request& r) { r.hold = HandoverId{{1}}; }),
            "baton_resume with kv_transfer_params, expected one of them");
}

// Two answers outgrow the cache together.
struct Pressure {
  static constexpr uint32_t kBlocks = 8;
  std::vector<Request> requests;

  explicit Pressure(bool returnable) {
    for (uint64_t id = 1; id <= 3; ++id) {
      Request request = request_of(id, 30);
      request.prompt[0] = static_cast<TokenId>(id);
      request.sampling.max_tokens = 60;
      request.is_returnable = returnable;
      requests.push_back(request);
    }
  }
  static EngineConfig config(bool returns) {
    EngineConfig config;
    config.limits.returns = returns;
    config.prefix_cache = false;
    return config;
  }
};

TEST(Return, UnderPressureAReturnableRequestIsGivenBackAndGoesOnElsewhere) {
  const Pressure pressure(true);
  Place place(Pressure::config(true), Pressure::kBlocks);
  for (const Request& request : pressure.requests) place.submit(request);
  place.run();
  EXPECT_GT(place.engine->stats().returned, 0U);
  EXPECT_EQ(place.engine->stats().preemptions, 0U);
  EXPECT_TRUE(place.engine->is_idle());
  EXPECT_EQ(place.engine->stats().blocks_free, Pressure::kBlocks);
  place.expect_replays();
  for (const Request& request : pressure.requests) {
    const Seen& seen = place.seen[value(request.id)];
    EXPECT_NE(seen.returned, seen.finished);
    if (!seen.returned) continue;
    const Choices whole = Place().whole(request).choices;
    const size_t drawn = seen.choices.at(0).size();
    ASSERT_GT(drawn, 0U);
    EXPECT_TRUE(std::equal(seen.choices.at(0).begin(), seen.choices.at(0).end(), whole.at(0).begin()));
    expect_the_rest(Place().whole(resumed(request, whole, {drawn})), whole, {drawn});
  }
}

TEST(Return, OnlyWhereItIsSwitchedOnAndTheRequestCanGoOnElsewhere) {
  for (const bool returns : {false, true}) {
    const Pressure pressure(!returns);
    Place place(Pressure::config(returns), Pressure::kBlocks);
    for (const Request& request : pressure.requests) place.submit(request);
    place.run();
    EXPECT_EQ(place.engine->stats().returned, 0U);
    EXPECT_GT(place.engine->stats().preemptions, 0U);
    for (const Request& request : pressure.requests) EXPECT_TRUE(place.seen[value(request.id)].finished);
  }
}

// Given back and sent to the same instance again and again, every answer comes to its end: each stay draws a
// token at least.
TEST(Return, AnAnswerThatWandersGetsLongerAtEachPlace) {
  const Pressure pressure(true);
  Place place(Pressure::config(true), Pressure::kBlocks);
  std::map<uint64_t, size_t> of;  // by RequestId: which request
  std::vector<Choices> answers(pressure.requests.size());
  for (size_t i = 0; i < pressure.requests.size(); ++i) {
    of[i + 1] = i;
    place.submit(pressure.requests[i]);
  }
  uint64_t next_id = 100;
  for (int steps = 0; steps < 5000 && !of.empty(); ++steps) {
    place.step();
    for (const auto& [id, which] : std::map(of)) {
      const Seen seen = place.seen[id];
      if (!seen.ended()) continue;
      of.erase(id);
      ASSERT_FALSE(seen.error) << seen.error->message;
      const auto drawn = seen.choices.find(0);
      if (seen.returned) ASSERT_NE(drawn, seen.choices.end()) << "a stay for nothing";
      for (const DrawnToken& token : drawn->second) answers[which][0].push_back(token);
      if (seen.finished) continue;
      Request again = resumed(pressure.requests[which], answers[which], {answers[which][0].size()});
      again.drawn_before[0].finished = false;
      again.id = RequestId{next_id++};
      of[value(again.id)] = which;
      place.submit(again);
    }
  }
  EXPECT_TRUE(of.empty()) << "no end in sight";
  for (size_t i = 0; i < answers.size(); ++i)
    EXPECT_EQ(answers[i], Place().whole(pressure.requests[i]).choices) << i;
}

}  // namespace
}  // namespace baton::engine
