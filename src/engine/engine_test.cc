// Properties of the engine over random mixes of requests, on the hash fake: its logits depend on every byte
// of KV that a row may read, so a block that is missing, stale or foreign changes the answer.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <set>

#include "engine/recorder.h"
#include "model/testing.h"

namespace baton::engine {
namespace {

using std::chrono::milliseconds;

// All that a client sees of one request.
struct Seen {
  std::map<uint32_t, std::vector<DrawnToken>> choices;
  std::vector<std::optional<PositionLogprobs>> prompt_logprobs;
  bool finished = false;
  std::optional<Error> error;
  std::optional<HeldEvent> held;
  Timeline timeline;
};

struct Rig {
  model::FakeModel model;
  std::unique_ptr<kv::KvArena> arena;
  std::unique_ptr<Recorder> recorder;
  std::unique_ptr<Engine> engine;
  std::map<uint64_t, Seen> seen;
  Time now{milliseconds(1)};

  Rig(EngineConfig config, uint32_t blocks, Surroundings surroundings = {}, bool record = false,
      model::FakeModelOptions options = {})
      : model(options) {
    config.handover.incarnation = Incarnation{{7}};
    arena = std::move(*kv::KvArena::create(model.info().kv_layout, blocks, config.handover.incarnation));
    if (record) {
      recorder = std::make_unique<Recorder>(::testing::TempDir());
      surroundings.recorder = recorder.get();
    }
    engine = std::make_unique<Engine>(config, model, *arena, std::move(surroundings));
  }

  Outbox step(std::vector<Inbox> inbox = {}) {
    now = now + milliseconds(1);
    Outbox outbox = engine->step(std::move(inbox), now);
    for (const Answer& answer : outbox.answers) take(answer);
    EXPECT_EQ(engine->find_inconsistency(), "");
    return outbox;
  }
  void take(const Answer& answer) {
    Seen& one = seen[std::visit([](const auto& event) { return value(event.request); }, answer)];
    EXPECT_FALSE(one.finished || one.error) << "an answer after the end";
    if (const auto* prompt = std::get_if<PromptEvent>(&answer)) one.prompt_logprobs = prompt->prompt_logprobs;
    if (const auto* tokens = std::get_if<TokensEvent>(&answer)) {
      for (const DrawnToken& token : tokens->tokens) one.choices[tokens->choice].push_back(token);
    }
    if (const auto* held = std::get_if<HeldEvent>(&answer)) one.held = *held;
    if (const auto* failed = std::get_if<FailedEvent>(&answer)) {
      one.error = failed->error;
      one.timeline = failed->timeline;
    }
    if (const auto* finished = std::get_if<FinishedEvent>(&answer)) {
      one.finished = true;
      one.timeline = finished->timeline;
      ASSERT_TRUE(one.timeline.has_ended());
    }
    if (!one.timeline.has_begun()) return;
    Duration sum{0};
    for (const auto& [phase, took] : one.timeline.parts()) sum += took;
    EXPECT_EQ(sum, one.timeline.total());
  }
  void run() {
    for (int i = 0; i < 20000 && engine->has_work(); ++i) step();
    ASSERT_FALSE(engine->has_work()) << "no end in sight";
  }
  void expect_nothing_leaked() {
    EXPECT_TRUE(engine->is_idle());
    EXPECT_EQ(engine->stats().blocks_free, arena->blocks());
  }
};

Request random_request(std::mt19937& random, uint64_t id, uint32_t prompt_max, uint32_t answer_max) {
  Request r;
  r.id = RequestId{id};
  const uint32_t shared = random() % 3;  // some begin alike
  const uint32_t size = 1 + random() % prompt_max;
  for (uint32_t i = 0; i < size; ++i) {
    const bool common = shared != 0 && i < size - size / 4;
    r.prompt.push_back(common ? static_cast<TokenId>((i * 7 + shared) % 60)
                              : static_cast<TokenId>(random() % 60));
  }
  SamplingParams& p = r.sampling;
  p.temperature = random() % 3 == 0 ? 0.0F : 0.9F;
  p.top_k = random() % 3 == 0 ? 8 : 0;
  p.top_p = random() % 3 == 0 ? 0.8F : 1.0F;
  p.repetition_penalty = random() % 4 == 0 ? 1.2F : 1.0F;
  p.frequency_penalty = random() % 4 == 0 ? 0.5F : 0.0F;
  p.seed = random();
  p.n = random() % 4 == 0 ? 1 + random() % 4 : 1;
  p.max_tokens = 1 + random() % answer_max;
  p.eos_token_ids = {63};
  p.stop_token_ids = {62};
  p.ignore_eos = random() % 3 == 0;
  if (random() % 2 == 0) p.logprobs = random() % 4;
  if (random() % 5 == 0) p.prompt_logprobs = random() % 3;
  r.priority = static_cast<int32_t>(random() % 3);
  r.cache_salt = random() % 4 == 0 ? "salt" : "";
  return r;
}

EngineConfig random_config(std::mt19937& random) {
  EngineConfig config;
  config.limits.seqs_max = 1 + random() % 6;
  config.limits.batch_tokens_max = config.limits.seqs_max + random() % 40;
  config.limits.policy = random() % 2 == 0 ? SchedulingPolicy::kFcfs : SchedulingPolicy::kPriority;
  config.prefix_cache = random() % 4 != 0;
  return config;
}

Seen alone(const Request& request) {
  Rig rig({}, 256);
  rig.step({Submit{request}});
  rig.run();
  return rig.seen.at(value(request.id));
}

TEST(Engine, ARequestGetsTheSameAnswerWhateverRunsBesideIt) {
  uint64_t preemptions = 0;
  uint64_t hits = 0;
  uint64_t interrupted = 0;
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const EngineConfig config = random_config(random);
    Surroundings surroundings;
    std::mt19937 interruptions(seed + 1);
    if (seed % 3 == 0) surroundings.poll_interrupt = [&](uint32_t) { return interruptions() % 4 == 0; };
    Rig rig(config, 8 + random() % 12, std::move(surroundings));
    std::vector<Request> requests;
    const uint32_t count = 1 + random() % 10;
    for (uint32_t i = 0; i < count; ++i) {
      requests.push_back(random_request(random, i, 70, 50));
      std::vector<Inbox> inbox;
      inbox.emplace_back(Submit{requests.back()});
      rig.step(std::move(inbox));
      for (uint32_t steps = random() % 5; steps > 0; --steps) rig.step();
    }
    rig.run();
    for (const Request& request : requests) {
      const Seen& seen = rig.seen.at(value(request.id));
      const Seen expected = alone(request);
      ASSERT_TRUE(seen.finished && expected.finished) << "seed " << seed;
      ASSERT_EQ(seen.choices, expected.choices) << "seed " << seed << " request " << value(request.id);
      ASSERT_EQ(seen.prompt_logprobs, expected.prompt_logprobs) << "seed " << seed;
    }
    rig.expect_nothing_leaked();
    preemptions += rig.engine->stats().preemptions;
    hits += rig.engine->stats().prefix_hits;
    interrupted += rig.engine->stats().passes_interrupted;
  }
  // The mixes are worth their time only if they provoke what they are for.
  EXPECT_GT(preemptions, 100U);
  EXPECT_GT(hits, 1000U);
  EXPECT_GT(interrupted, 1000U);
}

TEST(Engine, WhatIsDecidedDoesNotWaitForThePass) {
  Rig* running = nullptr;
  std::vector<Answer> early;
  uint64_t rows_before = 0;
  Surroundings surroundings;
  surroundings.emit = [&](Outbox outbox) {
    EXPECT_EQ(running->model.rows_computed(), rows_before) << "something waited for the pass";
    for (Answer& answer : outbox.answers) early.push_back(std::move(answer));
  };
  Rig rig({}, 64, std::move(surroundings));
  running = &rig;
  Request decoding;
  decoding.id = RequestId{1};
  decoding.prompt = {1, 2, 3};
  decoding.sampling.max_tokens = 8;
  rig.step({Submit{decoding}});
  rows_before = rig.model.rows_computed();
  Request empty;
  empty.id = RequestId{2};
  const Outbox outbox = rig.step({Submit{empty}});
  EXPECT_GT(rig.model.rows_computed(), rows_before);
  ASSERT_EQ(early.size(), 1U);
  EXPECT_TRUE(std::holds_alternative<FailedEvent>(early[0])) << "it has no prompt";
  ASSERT_EQ(outbox.answers.size(), 1U) << "what has left is not given again";
  EXPECT_TRUE(std::holds_alternative<TokensEvent>(outbox.answers[0]));
}

// Where an answer's K and V have a form of their own, no later prompt finds them, not even one that continues
// the answer.
TEST(Engine, BlocksOfAnAnswerAreFoundByLaterPromptsUnlessTheirFormIsTheAnswersOwn) {
  for (const bool own_form : {false, true}) {
    EngineConfig config;
    config.prefix_cache = true;
    Rig rig(config, 64, {}, false, {.answer_has_own_form = own_form});
    const uint32_t block = rig.model.info().kv_layout.block_tokens;
    Request first;
    first.id = RequestId{1};
    for (uint32_t i = 0; i < block + 3; ++i) first.prompt.push_back(static_cast<TokenId>(i));
    first.sampling.max_tokens = 3 * block;
    first.sampling.ignore_eos = true;
    rig.step({Submit{first}});
    rig.run();
    Request second = first;
    second.id = RequestId{2};
    for (const DrawnToken& token : rig.seen[1].choices[0]) second.prompt.push_back(token.token);
    rig.step({Submit{second}});
    rig.run();
    EXPECT_EQ(rig.engine->stats().prefix_hits, (own_form ? 1 : 4) * block) << own_form;
    rig.expect_nothing_leaked();
  }
}

TEST(Engine, ChoicesAndSeedsDrawTheirOwnAnswers) {
  Rig rig({}, 64);
  std::set<std::vector<TokenId>> answers;
  for (uint64_t id = 1; id <= 2; ++id) {
    Request request;
    request.id = RequestId{id};
    request.prompt.assign(20, 5);
    request.sampling.n = 4;
    request.sampling.seed = id;
    request.sampling.ignore_eos = true;
    rig.step({Submit{request}});
    rig.run();
    for (const auto& [choice, drawn] : rig.seen[id].choices) {
      std::vector<TokenId> tokens;
      for (const DrawnToken& token : drawn) tokens.push_back(token.token);
      answers.insert(std::move(tokens));
    }
  }
  EXPECT_EQ(answers.size(), 8U);
}

TEST(Engine, AnAbortAtAnyStepLeaksNothingAndEndsTheRequestOnce) {
  for (uint32_t seed = 0; seed < 150; ++seed) {
    std::mt19937 random(seed);
    Rig rig(random_config(random), 8 + random() % 12);
    for (uint64_t id = 0; id < 12; ++id) {
      Request request = random_request(random, id, 70, 50);
      if (random() % 4 == 0) request.deadline = rig.now + milliseconds(random() % 20);
      if (random() % 4 == 0) request.hold = HandoverId{{static_cast<uint8_t>(id + 1)}};
      std::vector<Inbox> inbox;
      inbox.emplace_back(Submit{std::move(request)});
      if (random() % 2 == 0) inbox.emplace_back(Abort{RequestId{random() % (id + 1)}, "client left"});
      if (random() % 4 == 0) inbox.emplace_back(StopChoice{RequestId{random() % (id + 1)}, 0});
      if (random() % 6 == 0) inbox.emplace_back(ResetPrefixCache{});
      if (random() % 4 == 0)
        inbox.emplace_back(ReleaseHeld{HandoverId{{static_cast<uint8_t>(random() % 12 + 1)}}, "no"});
      rig.step(std::move(inbox));
      for (uint32_t steps = random() % 4; steps > 0; --steps) rig.step();
    }
    // What is held comes back with its lease, and whoever waited for it goes on.
    for (int rounds = 0; rounds < 20; ++rounds) {
      rig.run();
      rig.now = rig.now + std::chrono::seconds(31);
      rig.step();
    }
    for (uint64_t id = 0; id < 12; ++id) {
      EXPECT_TRUE(rig.seen.at(id).finished || rig.seen.at(id).error) << "seed " << seed << " request " << id;
    }
    rig.expect_nothing_leaked();
  }
}

TEST(Engine, NanLogitsFailTheirRequestAloneAndNothingOfItIsReused) {
  Rig rig({}, 64, {}, false, {.nan_token = 61});
  Request bad;
  bad.id = RequestId{1};
  bad.prompt.assign(40, 5);
  bad.prompt.push_back(61);
  Request good = bad;
  good.id = RequestId{2};
  good.prompt.back() = 6;
  bad.sampling.ignore_eos = good.sampling.ignore_eos = true;
  good.sampling.allowed_token_ids = {3, 4};
  rig.step({Submit{bad}, Submit{good}});
  rig.run();
  ASSERT_TRUE(rig.seen[1].error);
  EXPECT_EQ(rig.seen[1].error->code, Code::kCorrupt);
  EXPECT_TRUE(rig.seen[1].choices.empty());
  EXPECT_TRUE(rig.seen[2].finished);
  rig.expect_nothing_leaked();
}

TEST(Engine, RefusesAtTheDoorWhatItCannotServeAndNamesIt) {
  EngineConfig config;
  config.limits.seqs_max = 1;
  config.waiting_max = 1;
  Rig rig(config, 4);
  const auto request = [](uint64_t id, size_t prompt, uint32_t max_tokens) {
    Request r;
    r.id = RequestId{id};
    r.prompt.assign(prompt, 1);
    r.sampling.max_tokens = max_tokens;
    r.sampling.ignore_eos = true;
    return r;
  };
  Request foreign = request(4, 1, 1);
  foreign.prompt[0] = 64;
  rig.step({Submit{request(1, 60, 5)}, Submit{request(2, 8, 4)}, Submit{request(3, 8, 4)}, Submit{foreign},
            Drain{}, Submit{request(5, 1, 1)}});
  EXPECT_NE(rig.seen[1].error->message.find("60 tokens and max_tokens is 5, expected at most 64"),
            std::string::npos);
  EXPECT_EQ(rig.seen[3].error->code, Code::kExhausted);
  EXPECT_EQ(rig.seen[4].error->message, "prompt[0] is 64, expected 0..63");
  EXPECT_EQ(rig.seen[5].error->code, Code::kUnavailable);
  rig.run();
  EXPECT_TRUE(rig.seen[2].finished);
}

TEST(Engine, AStepIsBoundedInTimeByWhatPrefillHasCost) {
  ManualClock clock;
  EngineConfig config;
  config.limits.step_max = milliseconds(20);
  std::vector<uint32_t> chunks;
  uint64_t before = 0;
  Rig* self = nullptr;
  Surroundings surroundings;
  surroundings.clock = &clock;
  surroundings.poll_interrupt = [&](uint32_t layer) {
    if (layer != 0) return false;
    const auto rows = static_cast<uint32_t>(self->model.rows_computed() - before);
    before += rows;
    chunks.push_back(rows);
    clock.advance(std::chrono::microseconds(500) * rows);
    return false;
  };
  Rig rig(config, 64, std::move(surroundings));
  self = &rig;
  Request request;
  request.id = RequestId{1};
  request.prompt.assign(500, 3);
  request.sampling.max_tokens = 1;
  rig.step({Submit{request}});
  rig.run();
  ASSERT_FALSE(chunks.empty());
  EXPECT_GT(rig.engine->stats().steps, 5U);  // one pass would take a quarter of a second
}

TEST(Recorder, AReplayIsEqualToTheBitAndNoticesADifference) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    Surroundings surroundings;
    std::mt19937 interruptions(seed);
    surroundings.poll_interrupt = [&](uint32_t) { return interruptions() % 5 == 0; };
    Rig rig(random_config(random), 8 + random() % 12, std::move(surroundings), true);
    for (uint64_t id = 0; id < 8; ++id) {
      Request request = random_request(random, id, 70, 30);
      if (random() % 4 == 0) request.hold = HandoverId{{static_cast<uint8_t>(id + 1)}};
      rig.step({Submit{std::move(request)}});
      if (random() % 3 == 0) rig.step({Abort{RequestId{random() % 8}, "client left"}});
    }
    rig.run();
    const auto bytes = rig.recorder->bytes();
    auto record = parse_record(bytes);
    ASSERT_TRUE(record) << record.error().message;
    const auto replay_with = [&](uint64_t weights) {
      model::FakeModel model({.weights = weights});
      Record changed = *record;
      changed.head.fingerprint = model.info().fingerprint;
      auto arena =
          std::move(*kv::KvArena::create(model.info().kv_layout, rig.arena->blocks(), Incarnation{{9}}));
      return replay(changed, model, *arena);
    };
    const auto same = replay_with(1);
    ASSERT_TRUE(same) << same.error().message;
    EXPECT_TRUE(same->is_same()) << "seed " << seed << " step " << *same->first_difference;
    EXPECT_EQ(same->steps, rig.engine->stats().steps);
    EXPECT_FALSE(replay_with(2)->is_same());
    // Cut anywhere: a shorter record or a clear error, never more.
    for (size_t cut = 0; cut < bytes.size(); cut += 97) {
      const auto shorter = parse_record(std::span(bytes).first(cut));
      if (shorter) EXPECT_LE(shorter->steps.size(), record->steps.size());
    }
  }
}

TEST(Recorder, BeginsAnewAtAnIdleMomentOnceItIsFull) {
  std::mt19937 random(3);
  Surroundings surroundings;
  Recorder recorder(::testing::TempDir(), 20000);
  surroundings.recorder = &recorder;
  Rig rig({}, 32, std::move(surroundings));
  for (uint64_t id = 0; id < 400; ++id) {
    rig.step({Submit{random_request(random, id, 70, 10)}});
    rig.run();
  }
  const auto record = parse_record(recorder.bytes());
  ASSERT_TRUE(record);
  EXPECT_LT(record->steps.size(), rig.engine->stats().steps);
  model::FakeModel model;
  auto arena = std::move(*kv::KvArena::create(model.info().kv_layout, 32, Incarnation{{9}}));
  const auto report = replay(*record, model, *arena);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->is_same());
  const auto path = recorder.write_file();
  ASSERT_TRUE(path);
  EXPECT_EQ(read_record_file(*path)->steps.size(), record->steps.size());
}

}  // namespace
}  // namespace baton::engine
