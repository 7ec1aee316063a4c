// What the clients of a chaos run ask, and what each of them would be answered by one instance that nothing
// disturbs. The model is the hash fake of model/testing.h: one wrong byte of KV is another answer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/testing.h"
#include "serve/served_model.h"

namespace baton::simulation::chaos {

// Prompts share beginnings, so that prefix caches matter. Text is token numbers, each with a blank behind it.
struct Question {
  std::string body;  // of /v1/completions
  bool stream = false;
  std::vector<std::string> texts;    // [choice]
  std::vector<std::string> reasons;  // [choice] finish_reason
};

class Questions {
 public:
  // The same for every run of a process; draws nothing from a run's seed.
  explicit Questions(size_t count = 256);

  const std::vector<Question>& all() const { return all_; }

 private:
  std::vector<Question> all_;
};

inline constexpr uint32_t kMaxModelLen = 128;

model::FakeModelOptions fake_options(uint32_t block_tokens);
// What an instance's door knows of that model.
std::unique_ptr<serve::ServedModel> make_served();
std::string text_of(const std::vector<TokenId>& tokens);

}  // namespace baton::simulation::chaos
