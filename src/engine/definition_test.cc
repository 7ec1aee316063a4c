// The engine against the plain loop of engine/testing.h: whatever it batches, counts and shares, each choice
// gets the tokens that it would get if it were computed and drawn one token after the other.
#include <gtest/gtest.h>

#include <random>

#include "engine/engine.h"
#include "engine/testing.h"
#include "model/testing.h"

namespace baton::engine {
namespace {

Request random_request(std::mt19937& random, uint64_t id) {
  Request r;
  r.id = RequestId{id};
  const auto token = [&] { return static_cast<TokenId>(random() % 60); };
  for (uint32_t size = 1 + random() % 40; size > 0; --size) r.prompt.push_back(token());
  SamplingParams& p = r.sampling;
  p.temperature = random() % 4 == 0 ? 0.0F : 0.2F + static_cast<float>(random() % 8) / 4.0F;
  if (random() % 3 == 0) p.top_k = static_cast<int32_t>(1 + random() % 20);
  if (random() % 3 == 0) p.top_p = 0.0137F + 0.97F * static_cast<float>(random() % 1000) / 1000.0F;
  if (random() % 3 == 0) p.min_p = 0.0371F;
  if (random() % 3 == 0) p.repetition_penalty = random() % 2 == 0 ? 1.7F : 0.6F;
  if (random() % 3 == 0) p.presence_penalty = random() % 2 == 0 ? 2.0F : -1.5F;
  if (random() % 3 == 0) p.frequency_penalty = random() % 2 == 0 ? 1.1F : -0.4F;
  if (random() % 4 == 0) p.logit_bias = {{3, 2.5F}, {9, -100.0F}};
  if (random() % 4 == 0) p.allowed_token_ids = {1, 2, 3, 5, 8, 13, 21, 34, 55};
  p.seed = random();
  p.n = random() % 3 == 0 ? 2 + random() % 3 : 1;
  p.max_tokens = 1 + random() % 25;
  p.min_tokens = random() % 2 == 0 ? random() % (p.max_tokens + 1) : 0;
  p.eos_token_ids = {7, 8};
  p.stop_token_ids = {21, 40};
  p.ignore_eos = random() % 3 == 0;
  return r;
}

using Answers = std::map<uint64_t, std::map<uint32_t, std::vector<TokenId>>>;

// All at once, in a cache that is too small for them.
Answers run_together(const std::vector<Request>& requests, uint32_t seed) {
  std::mt19937 random(seed);
  EngineConfig config;
  config.limits.seqs_max = 2 + random() % 6;
  config.limits.batch_tokens_max = config.limits.seqs_max + random() % 40;
  model::FakeModel model;
  const auto arena = std::move(*kv::KvArena::create(model.info().kv_layout, 12, Incarnation{{1}}));
  Engine engine(config, model, *arena);
  std::vector<Inbox> inbox;
  for (const Request& request : requests) inbox.emplace_back(Submit{request});
  Answers answers;
  Time now;
  for (int steps = 0; steps < 20000 && (!inbox.empty() || engine.has_work()); ++steps) {
    now = now + std::chrono::milliseconds(1);
    for (const Answer& answer : engine.step(std::exchange(inbox, {}), now).answers) {
      const auto* event = std::get_if<TokensEvent>(&answer);
      if (event == nullptr) continue;
      for (const DrawnToken& drawn : event->tokens)
        answers[value(event->request)][event->choice].push_back(drawn.token);
    }
  }
  EXPECT_TRUE(engine.is_idle());
  return answers;
}

TEST(Engine, DrawsWhatAPlainLoopOverPlainVectorsDraws) {
  model::FakeModel model;
  for (uint32_t seed = 0; seed < 120; ++seed) {
    std::mt19937 random(seed);
    std::vector<Request> requests;
    for (uint64_t id = 0; id < 4; ++id) requests.push_back(random_request(random, id));
    const Answers answers = run_together(requests, seed);
    for (const Request& request : requests) {
      for (uint32_t choice = 0; choice < request.sampling.n; ++choice) {
        ASSERT_EQ(answers.at(value(request.id)).at(choice), slow_answer(request, choice, model))
            << "seed " << seed << " request " << value(request.id) << " choice " << choice;
      }
    }
  }
}

}  // namespace
}  // namespace baton::engine
