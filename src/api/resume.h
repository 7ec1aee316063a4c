// How an answer that began on one decode instance goes on at another (docs/resume.md). The proxy sends
// X-Baton-Resume with a streamed request; the instance then writes, in front of each event of its stream and
// in the same write, one SSE comment line with the token ids that the event consumed:
//
//   : baton {"head":{"id":"cmpl-a","created":1,"seed":5,"cached_tokens":0,"digest":"00000000000000ff"},
//            "choices":[{"index":0,"ids":[17,4]}]}          (one line)
//
// The proxy strips these lines, adds the notes up, and if the instance is lost sends another one the client's
// own body with the sum as the object `baton_resume`. Nothing here is authority: an instance resumes what its
// own reading of the request would have answered, and refuses a digest that is not its own.
#pragma once

#include <boost/json/fwd.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/limits.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton::api {

// Request header, "1": the sender strips the notes and can resume.
inline constexpr std::string_view kResumeHeader = "X-Baton-Resume";
// The field of a resume request's body.
inline constexpr std::string_view kResumeField = "baton_resume";
// What instances say of themselves in `resume` (api/identity.h).
inline constexpr int32_t kResumeProtocol = 1;
// How a note's line begins. A line of a stream is a note if it does, and no client ever sees one.
inline constexpr std::string_view kResumeNotePrefix = ": baton ";

inline constexpr size_t kResumeIdsMax = 128UL << 10;      // token ids of one answer, over its choices
inline constexpr size_t kResumeNoteBytesMax = 2UL << 20;  // of a note's line
inline constexpr size_t kResumeChunkIdBytesMax = kNameBytesMax + 64;  // "chatcmpl-" and the request's name

// What the answer is made of and a second instance would not draw or count alike. In the first note.
struct ResumeHead {
  std::string id;             // of the chunks
  int64_t created = 0;        // of the chunks, Unix seconds
  uint64_t seed = 0;          // what the client sent, else what the first instance drew
  int64_t cached_tokens = 0;  // of the prompt, as `usage` says
  uint64_t digest = 0;        // of prompt and resolved sampling; equal digests draw equal answers
  bool handed_over = false;   // the prompt's KV came from a peer: then the answer has no prompt logprobs
  bool operator==(const ResumeHead&) const = default;
};

// What one event said of one choice.
struct NotedChoice {
  int32_t index = 0;
  std::vector<TokenId> ids;  // consumed since its last note, those included whose text is held back; empty
                             // for the event that only says the role
  bool finished = false;     // the event carries its finish_reason
  bool operator==(const NotedChoice&) const = default;
};

struct ResumeNote {
  std::optional<ResumeHead> head;    // in the first note of an answer only
  std::vector<NotedChoice> choices;  // none: the event behind all choices (usage, timings)
  bool returned = false;  // instead of an event: the instance gives the request back (": baton returned")
  bool operator==(const ResumeNote&) const = default;
};

// Appends the line with its '\n'.
void append_resume_note(std::string& out, const ResumeNote& note);

// `line` is one line without its line end, beginning with kResumeNotePrefix. kInvalid names the field; also
// beyond kResumeNoteBytesMax, kResumeIdsMax and kChoicesMax.
Result<ResumeNote> parse_resume_note(std::string_view line);

// A choice as far as the client has it.
struct ResumedChoice {
  std::vector<TokenId> token_ids;
  bool begun = false;     // an event of it has gone out: a chat's role, at least
  bool finished = false;  // its finish_reason has gone out
  bool operator==(const ResumedChoice&) const = default;
};

// The sum of an answer's notes, whose events have gone out to the client: what `baton_resume` says.
struct Resumption {
  ResumeHead head;
  std::vector<ResumedChoice> choices;  // by index; those behind the last one have not begun
  bool usage_sent = false;             // the event behind all choices has gone out: only [DONE] is missing
  bool operator==(const Resumption&) const = default;
};

// One more note, whose event has gone out whole. `sum` is empty before the first, which must have the head.
// kInvalid if the note does not fit the sum (a second head, a choice that had finished), kExhausted beyond
// kResumeIdsMax: the answer cannot be resumed any more.
Result<void> add_note(std::optional<Resumption>& sum, const ResumeNote& note);

// Token ids over all choices.
size_t count_ids(const Resumption& resumption);

// JSON text of the object.
std::string render_resumption(const Resumption& resumption);

// kInvalid names the field, "baton_resume.choices[1].token_ids[7]: 90, expected a token id from 0 to 31".
Result<Resumption> parse_resumption(std::string_view json, int32_t vocab_size);
// Of a value that is one field of a body.
Result<Resumption> parse_resumption(const boost::json::value& value, int32_t vocab_size);

}  // namespace baton::api
