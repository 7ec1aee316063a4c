// The search for a request's stop strings in its streamed answer. What comes out never holds a part of a stop
// string that may still complete, nor half a character, however the text is cut. The answer ends where the
// first stop string completes (of several that complete at the same byte, the longest counts), so the result
// depends on the text alone, not on how many tokens a step brought. Owned by whoever streams the answer; one
// thread at a time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::text {

constexpr size_t kStopStringsMax = 64;        // per request
constexpr size_t kStopStringBytesMax = 1024;  // each

class StopStrings {
 public:
  // kInvalid (param "stop") for an empty or ill-formed string, too many or too long ones. With
  // `include_stop_str_in_output` the answer ends behind the stop string, else before it.
  static Result<StopStrings> create(std::vector<std::string> stops, bool include_stop_str_in_output);

  // Takes the next text of the answer and returns what may go out now. Once a stop string is complete, the
  // rest of the answer is dropped. With `may_stop` false (the answer is shorter than min_tokens) a stop
  // string that completes in `text` does not end the answer.
  std::string feed(std::string_view text, bool may_stop = true);

  // What was held back when the answer ends otherwise. Empty after a stop.
  std::string flush();

  bool stopped() const { return stopped_by_ != kNone; }

  // The stop string that ended the answer; only when stopped().
  const std::string& stop_string() const;

 private:
  static constexpr size_t kNone = static_cast<size_t>(-1);

  // One stop string and the state of its Knuth-Morris-Pratt search.
  struct Search {
    std::string stop;
    std::vector<uint16_t> border;  // [i]: length of the longest proper prefix of stop[0, i] that also ends it
    size_t matched = 0;            // bytes of `stop` that the text so far ends with

    bool advance(char byte);  // whether `stop` is now complete
  };

  StopStrings(std::vector<Search> searches, bool include)
      : searches_(std::move(searches)), include_(include) {}
  std::string end_at(size_t stop);
  std::string release(size_t keep);

  std::vector<Search> searches_;
  bool include_;
  std::string held_;  // text not yet given out
  size_t stopped_by_ = kNone;
};

}  // namespace baton::text
