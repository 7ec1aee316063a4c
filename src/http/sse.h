// Server-Sent Events (WHATWG HTML, 9.2.5 and 9.2.6): reading them from bytes cut anywhere, writing them.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::http {

inline constexpr size_t kEventBytesMax = 16 * 1024 * 1024;  // one event, unfinished or whole

// One block of a stream, up to and with its blank line. Views live until the parser's next call.
struct SseEvent {
  std::string_view raw;   // the bytes as they came; the raws of all events joined are the stream
  std::string_view data;  // its data lines joined with LF
  std::string_view type;  // its last event field; empty: "message"
  std::string_view id;    // its last id field
  bool has_data = false;  // false: comments or other fields alone, which a browser would not report

  bool is_done() const { return data == "[DONE]"; }  // how OpenAI's streams end
};

// Reassembles events. CR, LF and CRLF end lines; a BOM before the first line is skipped.
class SseParser {
 public:
  // Takes more bytes, once next() has given every event of those before. kCorrupt when an unfinished event
  // has passed kEventBytesMax; the parser then takes nothing more.
  Result<void> feed(std::string_view bytes);
  // The next whole event; nothing until more bytes come.
  std::optional<SseEvent> next();
  // No more bytes come: a blank line that waited for its LF counts. Unfinished events are never given.
  void finish();
  // Bytes that belong to no whole event yet.
  std::string_view rest() const;

 private:
  struct Line {
    size_t start = 0;
    size_t end = 0;   // without its terminator
    size_t next = 0;  // start of the line after it
  };
  // The line that begins at `start`, whose terminator is not before `from`; nothing while it is unfinished.
  std::optional<Line> line_at(size_t start, size_t from) const;
  SseEvent event_between(size_t start, size_t end);

  // Offsets into pending_: given_ <= block_start_ <= line_start_ <= searched_.
  std::string pending_;     // the last event given and all bytes after it
  size_t given_ = 0;        // end of the last event given
  size_t block_start_ = 0;  // of the first line of the next event
  size_t line_start_ = 0;   // of the first line not yet seen whole
  size_t searched_ = 0;     // no terminator of that line lies before
  std::string joined_;      // data of an event with several data lines
  bool at_start_ = true;    // nothing was decided about a BOM
  bool finished_ = false;
};

// "data: ...\n\n", each line of `data` as a data line of its own.
std::string render_event(std::string_view data);
void append_event(std::string& to, std::string_view data);
// "event: error\ndata: ...\n\n"
std::string render_event(std::string_view type, std::string_view data);

inline constexpr std::string_view kDoneEvent = "data: [DONE]\n\n";
inline constexpr std::string_view kEventStream = "text/event-stream";

}  // namespace baton::http
