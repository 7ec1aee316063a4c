// The parity law: for any request the answer through proxy + 2P + 2D is the same, bit for bit in tokens and
// log-probabilities and in what its client reads, as from one instance, whatever the schedule, the arena, the
// threads and the network do.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <random>

#include "checkpoint/checkpoint.h"
#include "model/decoder.h"
#include "model/testing.h"
#include "tests/simulation/cluster.h"

namespace baton::simulation {
namespace {

const std::string kCheckpoints = std::string(BATON_SOURCE_DIR) + "/tests/golden/checkpoints/";

// Requests as a client would write them: short and long prompts with shared beginnings, all kinds of
// sampling.
class RandomRequests {
 public:
  RandomRequests(uint64_t seed, int vocab, int prompt_max)
      : random_(seed), vocab_(vocab), prompt_max_(prompt_max) {
    for (int i = 0; i < prompt_max; ++i) shared_.push_back(number(0, vocab - 1));
  }

  std::string next() {
    std::string list = fmt::format("[{}]", fmt::join(prompt(), ","));
    if (chance(15)) {  // several prompts, some more than are handed over at once
      const int more = chance(10) ? 20 : number(1, 4);
      for (int i = 0; i < more; ++i) list += fmt::format(",[{}]", fmt::join(prompt(), ","));
      list = "[" + list + "]";
    }
    std::string body = fmt::format(R"({{"prompt":{},"seed":{})", list, number(0, 1000));
    const int max_tokens = chance(10) ? 1 : number(1, 12);
    body += fmt::format(R"(,"max_tokens":{})", max_tokens);
    if (chance(30)) body += fmt::format(R"(,"n":{})", number(2, 3));
    if (chance(30)) {
      body += R"(,"temperature":0)";
    } else {
      body += fmt::format(R"(,"temperature":{})", 0.1 * number(1, 20));
    }
    if (chance(30)) body += fmt::format(R"(,"top_k":{})", number(1, 20));
    if (chance(30)) body += fmt::format(R"(,"top_p":{})", 0.05 * number(1, 20));
    if (chance(20)) body += fmt::format(R"(,"min_p":{})", 0.05 * number(0, 10));
    if (chance(20)) body += fmt::format(R"(,"repetition_penalty":{})", 0.1 * number(5, 20));
    if (chance(20)) body += fmt::format(R"(,"presence_penalty":{})", 0.1 * number(-20, 20));
    if (chance(20)) body += fmt::format(R"(,"frequency_penalty":{})", 0.1 * number(-20, 20));
    if (chance(20))
      body +=
          fmt::format(R"(,"logit_bias":{{"{}":{},"{}":-100}})", number(0, 9), number(-5, 5), number(10, 20));
    if (chance(40)) body += fmt::format(R"(,"logprobs":{})", number(0, 3));
    if (chance(20)) body += fmt::format(R"(,"prompt_logprobs":{})", number(0, 2));
    if (chance(30)) body += fmt::format(R"(,"min_tokens":{})", number(0, max_tokens));
    if (chance(30)) body += R"(,"ignore_eos":true)";
    if (chance(30))
      body += fmt::format(R"(,"stop_token_ids":[{},{}])", number(0, vocab_ - 1), number(0, vocab_ - 1));
    if (chance(30)) body += fmt::format(R"(,"stop":["{}","{}{}"])", letter(), letter(), letter());
    if (chance(30)) body += R"(,"include_stop_str_in_output":true)";
    if (!body.contains("prompt_logprobs") && chance(30)) body += R"(,"stream":true)";
    if (chance(20)) body += fmt::format(R"(,"cache_salt":"{}")", number(0, 2));
    if (chance(20)) body += fmt::format(R"(,"priority":{})", number(-2, 2));
    return body + "}";
  }

  int number(int low, int high) { return std::uniform_int_distribution(low, high)(random_); }
  bool chance(int percent) { return number(0, 99) < percent; }

 private:
  // The golden tokenizers' first 64 ids are characters; of those that JSON does not escape.
  char letter() { return static_cast<char>(number('#', 'Z')); }
  std::vector<int> prompt() {
    const int length = chance(30) ? number(1, 20) : number(1, prompt_max_);
    std::vector<int> tokens;
    const int common = chance(60) ? number(0, length) : 0;
    for (int i = 0; i < length; ++i) {
      tokens.push_back(i < common ? shared_[static_cast<size_t>(i)] : number(0, vocab_ - 1));
    }
    return tokens;
  }

  std::mt19937_64 random_;
  int vocab_;
  int prompt_max_;
  std::vector<int> shared_;
};

using BlockSizes = std::vector<std::array<uint32_t, 2>>;  // of P and of D
const BlockSizes kUnequalSizes = {{16, 32}, {32, 16}, {16, 64}, {64, 16},
                                  {48, 32}, {32, 48}, {48, 64}, {64, 48}};

struct Workload {
  ModelFactory models;
  std::string tokenizer_dir;
  int vocab = 64;
  int prompt_max = 80;
  size_t requests = 40;
  bool cuts_connections = false;
  api::HandoverOrder order = api::HandoverOrder::kPull;
  BlockSizes block_sizes = {{16, 16}, {16, 48}, {64, 16}, {32, 32}};  // in turn, by seed
};

engine::EngineConfig random_config(RandomRequests& draw) {
  engine::EngineConfig config;
  config.limits.seqs_max = static_cast<uint32_t>(draw.number(3, 8));
  config.limits.batch_tokens_max = static_cast<uint32_t>(draw.number(8, 128));
  config.prefix_cache = draw.chance(80);
  config.handover.lease = std::chrono::milliseconds(draw.number(500, 5000));
  return config;
}

// The seed of a failure goes into BATON_PARITY_SEED to see it again.
uint64_t first_seed() {
  const char* given = std::getenv("BATON_PARITY_SEED");
  return given == nullptr ? 1 : std::strtoull(given, nullptr, 10);
}

// Seeds of each real-kernel test: BATON_PARITY_RUNS, where the build is fast enough for thousands of
// requests.
uint64_t real_kernel_runs() {
  const char* given = std::getenv("BATON_PARITY_RUNS");
  return given == nullptr ? 1 : std::strtoull(given, nullptr, 10);
}

// How many of the requests went which way.
struct Ways {
  size_t recomputed = 0;
  uint64_t landed = 0;
};

Ways run_one(const Workload& workload, uint64_t seed) {
  RandomRequests draw(seed, workload.vocab, workload.prompt_max);
  Cluster cluster(workload.models, workload.tokenizer_dir,
                  {.seed = seed,
                   .delay_max = std::chrono::milliseconds(draw.number(0, 8)),
                   .repeat_percent = 5,
                   .blocks_per_poll = static_cast<uint32_t>(draw.number(1, 8))});
  for (const char* name : {"P1", "P2", "D1", "D2"}) {
    const uint32_t block_tokens =
        workload.block_sizes[seed % workload.block_sizes.size()][name[0] == 'P' ? 0 : 1];
    cluster.add({.name = name,
                 .role = name[0] == 'P' ? api::Role::kPrefill : api::Role::kDecode,
                 .order = workload.order,
                 .block_tokens = block_tokens,
                 .arena_blocks = static_cast<uint32_t>(draw.number(24, 96)) * 16 / block_tokens,
                 .engine = random_config(draw)});
  }
  std::vector<std::string> bodies;
  for (size_t i = 0; i < workload.requests; ++i) {
    bodies.push_back(draw.next());
    cluster.send(bodies.back(),
                 Time{std::chrono::seconds(1)} + std::chrono::milliseconds(draw.number(0, 100)));
  }
  if (workload.cuts_connections) {
    cluster.on_round = [&](uint64_t) {
      if (draw.chance(3)) cluster.network().cut_any();
    };
  }
  cluster.run();
  Cluster alone(workload.models, workload.tokenizer_dir, {.seed = seed});
  alone.add({.name = "alone", .role = std::nullopt, .arena_blocks = 512, .engine = {}});
  Ways ways;
  Time now{std::chrono::seconds(1)};
  for (size_t i = 0; i < bodies.size(); ++i) {
    const Outcome expected = answer_alone(alone.instance(0), bodies[i], now);
    EXPECT_TRUE(expected.same_answer(cluster.outcomes()[i]))
        << "BATON_PARITY_SEED=" << seed << " request " << i << ": " << bodies[i] << "\n  "
        << (cluster.outcomes()[i].error ? cluster.outcomes()[i].error->message : "other tokens or logprobs");
    ways.recomputed += cluster.outcomes()[i].recomputed ? 1 : 0;
  }
  for (size_t i = 0; i < cluster.size(); ++i) {
    const auto& stats = cluster.instance(i).engine().stats();
    EXPECT_EQ(stats.blocks_free, stats.blocks_total) << "seed " << seed << " instance " << i << " leaks";
    EXPECT_EQ(cluster.instance(i).engine().find_inconsistency(), "");
    ways.landed += stats.handovers_landed;
  }
  return ways;
}

ModelFactory fake_models() {
  return [](uint32_t block_tokens) {
    model::FakeModelOptions options{.max_position = 256};
    options.layout.block_tokens = block_tokens;
    return std::make_unique<model::FakeModel>(options);
  };
}

// A model of a golden checkpoint with real kernels; each instance with its own instruction set and threads.
class RealModels {
 public:
  explicit RealModels(const std::string& name) {
    auto opened = checkpoint::Checkpoint::open(kCheckpoints + name);
    EXPECT_TRUE(opened) << opened.error().message;
    checkpoint_ = std::make_shared<const checkpoint::Checkpoint>(std::move(*opened));
    for (const kernels::Isa isa : kernels::available_isas()) {
      for (const unsigned threads : {1U, 2U}) cpus_.push_back(std::make_unique<kernels::Cpu>(isa, threads));
    }
  }
  ModelFactory factory() {
    return [this](uint32_t block_tokens) {
      const kernels::Cpu& cpu = *cpus_[next_++ % cpus_.size()];
      auto loaded = model::load_decoder(
          checkpoint_, cpu, {.block_tokens = block_tokens, .batch_rows_max = 128, .max_model_len = 256});
      EXPECT_TRUE(loaded) << loaded.error().message;
      return std::move(loaded->model);
    };
  }
  int vocab() const { return static_cast<int>(checkpoint_->config.vocab_size); }

 private:
  std::shared_ptr<const checkpoint::Checkpoint> checkpoint_;
  std::vector<std::unique_ptr<kernels::Cpu>> cpus_;
  size_t next_ = 0;
};

class Parity : public testing::TestWithParam<api::HandoverOrder> {
 protected:
  static Workload workload() {
    return {.models = fake_models(), .tokenizer_dir = kCheckpoints + "qwen3", .order = GetParam()};
  }
};

TEST_P(Parity, HoldsForThousandsOfRequestsOverAModelThatHashesItsKv) {
  for (uint64_t seed = first_seed(); seed < first_seed() + 60; ++seed) {
    run_one(workload(), seed);
    if (testing::Test::HasFailure()) break;
  }
}

TEST_P(Parity, HoldsWhenConnectionsEndAtAnyMoment) {
  Workload cut = workload();
  cut.cuts_connections = true;
  size_t recomputed = 0;
  for (uint64_t seed = first_seed(); seed < first_seed() + 30; ++seed) {
    recomputed += run_one(cut, seed).recomputed;
    if (testing::Test::HasFailure()) break;
  }
  EXPECT_GT(recomputed, 0U) << "no connection was cut at a moment that matters: the test shows nothing";
}

// Every request has to be handed over: a pair that is refused would still answer right, only later.
TEST_P(Parity, HoldsForBlocksOfDifferentSizesWithoutComputingAPromptTwice) {
  Workload unequal = workload();
  unequal.block_sizes = kUnequalSizes;
  for (uint64_t seed = first_seed(); seed < first_seed() + 32; ++seed) {
    const Ways ways = run_one(unequal, seed);
    EXPECT_EQ(ways.recomputed, 0U) << "BATON_PARITY_SEED=" << seed;
    EXPECT_GT(ways.landed, 0U) << "BATON_PARITY_SEED=" << seed;
    if (testing::Test::HasFailure()) break;
  }
}

const auto kOrders = testing::Values(api::HandoverOrder::kPull, api::HandoverOrder::kLayerwise);

INSTANTIATE_TEST_SUITE_P(Orders, Parity, kOrders,
                         [](const auto& info) { return std::string(api::order_name(info.param)); });

class RealKernelParity : public testing::TestWithParam<std::tuple<const char*, api::HandoverOrder>> {};

TEST_P(RealKernelParity, HoldsWithRealKernelsOnEveryInstructionSet) {
  const auto [name, order] = GetParam();
  RealModels models(name);
  for (uint64_t seed = first_seed(); seed < first_seed() + real_kernel_runs(); ++seed) {
    run_one({.models = models.factory(),
             .tokenizer_dir = kCheckpoints + name,
             .vocab = models.vocab(),
             .prompt_max = 60,
             .requests = 25,
             .order = order},
            seed);
    if (testing::Test::HasFailure()) break;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Checkpoints, RealKernelParity,
    testing::Combine(testing::Values("qwen3", "qwen3-moe", "llama", "qwen2", "deepseek-v3"), kOrders),
    [](const auto& info) {
      std::string name = std::get<0>(info.param);
      std::erase(name, '-');
      return name + "_" + std::string(api::order_name(std::get<1>(info.param)));
    });

}  // namespace
}  // namespace baton::simulation
