// One client's request as several hand-overs whose answers become one answer. A hand-over carries the KV of
// one prompt, so each prompt of a list is a part of its own; its n choices share that part's prefill and
// lease. On instances that hold the KV of one choice only (those that are no Baton) each choice is a part.
// Sans-I/O; owned by the session of the client.
//
// The choices are numbered as one instance numbers them: prompt x n + i. The usages add up, with the tokens
// of a prompt counted once; the receipt has the prompts of all receipts. Parts begin in order, at most
// kPartsAtOnce at a time. The first part that fails ends the answer: the client gets that part's status, or
// after the first byte an error event.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "router/bodies.h"
#include "router/flow.h"

namespace baton::router {

inline constexpr size_t kPartsAtOnce = 16;

class PartedAnswer {
 public:
  // A part for each prompt of the list; one part if it is none. `client` must outlive this.
  PartedAnswer(const ClientBody& client, std::string request_id);

  // The next part that may begin now, kPartsAtOnce allowing; nothing while there is none.
  std::optional<size_t> begin_next();
  // Of a part that has begun: the body of a request of its own, its upstream name, and its place in the whole
  // (ClientBody::part of what read_client_body makes of the body).
  std::string body(size_t part) const;
  std::string request_id(size_t part) const;
  PartOf place(size_t part) const;

  // A part that has begun turned out to need one hand-over per choice: it ends, and so many others come.
  void split(size_t part);
  // A part's stream ended well; `usage_event` as PullFlow's.
  void on_stream_end(size_t part, std::string_view usage_event);
  // A part's answer did not come as a stream: it is whole, or the events of a stream (appended to `out`), or
  // a failure.
  void on_reply(size_t part, Reply reply, std::string_view usage_event, std::string& out);
  // A part's stream broke off: its last event said why.
  void on_broken(size_t part);

  bool is_over() const { return failed_ || ended_ == parts_.size(); }
  bool has_failed() const { return failed_; }
  // Once it is over: what is left of a stream that has begun (an error event, the usage, [DONE]).
  void append_end(std::string& out);
  // Once it is over and no stream has begun: the whole answer, or the failure.
  Reply reply();

 private:
  struct Part {
    uint32_t prompt = 0;            // index in the list
    std::optional<int32_t> choice;  // nothing: all n
    bool has_ended = false;
    std::string answer;  // whole
    std::string receipt;
  };
  bool counts_prompt(const Part& part) const { return part.choice.value_or(0) == 0; }
  void end(size_t part);
  void add_usage(const Part& part, std::string_view usage);
  std::string receipt() const;  // of the whole; empty if no part has one
  Result<std::string> join();

  const ClientBody& client_;
  std::string request_id_;
  std::vector<Part> parts_;
  size_t begun_ = 0;
  size_t ended_ = 0;
  size_t answer_bytes_ = 0;
  std::shared_ptr<AnswerHead> head_ = std::make_shared<AnswerHead>();
  api::json::object usage_;
  std::string usage_event_;  // of the first part that has one
  std::optional<Reply> failure_;
  bool failed_ = false;
};

}  // namespace baton::router
