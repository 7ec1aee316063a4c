// For tests of this room: the whole door over real sockets, routes and sessions before a scripted engine, or
// a true one on a hash model.
#pragma once

#include <gtest/gtest.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/recorder.h"
#include "http/client.h"
#include "http/server.h"
#include "http/testing.h"
#include "model/testing.h"
#include "serve/engine_thread.h"
#include "serve/routes.h"
#include "serve/testing.h"

namespace baton::serve {

namespace json = boost::json;

// What the scripted engine answers to a Submit, in bursts.
using Script = std::function<std::vector<engine::Answer>(const engine::Request&)>;

struct Reply {
  int status = 0;
  std::string head;
  std::string body;

  json::value whole() const { return json::parse(body); }
  std::vector<std::string> events() const {
    std::vector<std::string> out;
    for (size_t at = 0; at < body.size();) {
      const size_t end = body.find("\n\n", at);
      if (!body.substr(at).starts_with("data: ") || end == std::string::npos)
        return {"not SSE: " + body.substr(at)};
      out.push_back(body.substr(at + 6, end - at - 6));
      at = end + 2;
    }
    return out;
  }
  // All events but the last, which must be [DONE].
  std::vector<json::value> chunks() const {
    std::vector<std::string> all = events();
    EXPECT_EQ(all.empty() ? "" : all.back(), "[DONE]") << body;
    std::vector<json::value> out;
    for (size_t i = 0; i + 1 < all.size(); ++i) out.push_back(json::parse(all[i]));
    return out;
  }
};

class Door {
 public:
  explicit Door(Script script = {})
      : script_(std::move(script)), model_(test_model()), fake_(fake_options()) {
    options_.served_model_names = {"m"};
    arena_ = std::move(*kv::KvArena::create(fake_.info().kv_layout, 64, Incarnation{{7}}));
    recorder_ = std::make_unique<engine::Recorder>(::testing::TempDir());
    engine::EngineConfig config;
    config.handover.incarnation = Incarnation{{7}};
    engine_ = std::make_unique<engine::Engine>(config, fake_, *arena_);
    client_ = std::make_unique<EngineClient>(loop_.loop(),
                                             [this](engine::Inbox item) { return post(std::move(item)); });
    thread_ = std::make_unique<EngineThread>(*engine_, *recorder_, beacon_, [this](engine::Outbox outbox) {
      if (!outbox.answers.empty()) deliver(std::move(outbox.answers));
    });
    auto listener = net::listen({"127.0.0.1", 0});
    CHECK(listener.has_value());
    at_ = listener->local;
    loop_.call([&] {
      desk_.loop = &loop_.loop();
      http_client_ = std::make_unique<http::Client>(loop_.loop(), http::ClientOptions{});
      desk_.client = http_client_.get();
      desk_.options = &options_;
      desk_.model = &model_;
      desk_.engine = client_.get();
      desk_.engine_thread = thread_.get();
      desk_.metrics.model_name = "m";
      server_ = std::make_unique<http::Server>(loop_.loop(), std::move(*listener), http::ServerOptions{},
                                               make_handler(desk_));
      server_->start();
    });
  }
  ~Door() {
    thread_->stop();
    loop_.call([&] {
      server_.reset();
      http_client_.reset();
    });
  }

  Reply ask(const std::string& method, const std::string& path, const std::string& body = "",
            const std::string& headers = "") {
    http::RawClient client(at_);
    client.send(method + " " + path + " HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
                headers + "\r\n" + body);
    const std::string all = client.read_to_end();
    const size_t end = all.find("\r\n\r\n");
    if (end == std::string::npos || all.size() < 12) return {0, all, {}};
    return {std::stoi(all.substr(9, 3)), all.substr(0, end), all.substr(end + 4)};
  }
  Reply complete(const std::string& fields) { return ask("POST", "/v1/completions", "{" + fields + "}"); }
  Reply chat(const std::string& fields) {
    return ask(
        "POST", "/v1/chat/completions",
        R"({"messages":[{"role":"user","content":"hi"}])" + (fields.empty() ? "" : "," + fields) + "}");
  }

  ServedModel& model() { return model_; }
  Desk& desk() { return desk_; }
  options::ServeOptions& options() { return options_; }
  http::LoopThread& loop() { return loop_; }
  const net::Endpoint& at() const { return at_; }
  std::vector<engine::Inbox> posted() {
    return loop_.call([&] { return posted_; });
  }
  void deliver(std::vector<engine::Answer> answers) {
    auto shared = std::make_shared<std::vector<engine::Answer>>(std::move(answers));
    loop_.loop().post([this, shared] { client_->deliver(std::move(*shared)); });
  }

 private:
  static model::FakeModelOptions fake_options() {
    model::FakeModelOptions options;
    options.vocab_size = kTestVocab;
    options.max_position = kTestModelLen;
    return options;
  }
  bool post(engine::Inbox item) {
    if (!script_) return thread_->post(std::move(item));
    if (const auto* submit = std::get_if<engine::Submit>(&item)) {
      for (engine::Answer& answer : script_(submit->request)) deliver({std::move(answer)});
    }
    posted_.push_back(std::move(item));
    return true;
  }

  Script script_;
  ServedModel model_;
  options::ServeOptions options_;
  model::FakeModel fake_;
  std::unique_ptr<kv::KvArena> arena_;
  std::unique_ptr<engine::Recorder> recorder_;
  std::unique_ptr<engine::Engine> engine_;
  Beacon beacon_;
  Desk desk_;
  std::vector<engine::Inbox> posted_;  // of a scripted door; io thread
  std::unique_ptr<EngineClient> client_;
  net::Endpoint at_;
  http::LoopThread loop_;
  std::unique_ptr<EngineThread> thread_;
  std::unique_ptr<http::Client> http_client_;
  std::unique_ptr<http::Server> server_;
};

// Answers every choice with `text`, one token a step, then the end token.
inline Script says(std::string_view text, uint32_t cached = 0) {
  return [text = std::string(text), cached](const engine::Request& request) {
    static const ServedModel model = test_model();
    std::vector<TokenId> ids = ids_of(model, text);
    ids.push_back(kTestEos);
    engine::PromptEvent prompt;
    prompt.request = request.id;
    prompt.cached_tokens = cached;
    std::vector<engine::Answer> out{prompt};
    for (size_t i = 0; i < ids.size(); ++i) {
      for (uint32_t choice = 0; choice < request.sampling.n; ++choice) {
        engine::DrawnToken token;
        token.token = ids[i];
        if (request.sampling.logprobs)
          token.logprobs = engine::PositionLogprobs{.self = {ids[i], -1.0F, 1}, .top = {}};
        if (i + 1 == ids.size()) token.finish = engine::FinishReason::kStop;
        out.emplace_back(engine::TokensEvent{.request = request.id, .choice = choice, .tokens = {token}});
      }
    }
    out.emplace_back(
        engine::FinishedEvent{.request = request.id,
                              .output_tokens = static_cast<uint32_t>(ids.size()) * request.sampling.n,
                              .timeline = {}});
    return out;
  };
}

inline const json::object& choice_of(const json::value& chunk) {
  return chunk.as_object().at("choices").as_array().at(0).as_object();
}
inline bool has_usage(const json::value& chunk) { return chunk.as_object().contains("usage"); }
inline int64_t counted(const json::value& chunk, const char* key) {
  return chunk.as_object().at("usage").as_object().at(key).to_number<int64_t>();
}

}  // namespace baton::serve
