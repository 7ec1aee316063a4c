// One line per event on stderr: "2026-01-31T12:00:00.000Z INFO  engine: message". Safe from any thread.
// Writers build the message with fmt::format; a line names the thing, the value and, on errors, the
// expectation.
#pragma once

#include <string_view>

namespace baton {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines below this level are dropped. kInfo at start.
void set_log_level(LogLevel level);

// `room` is the name of the room that speaks.
void log(LogLevel level, std::string_view room, std::string_view message);

inline void log_debug(std::string_view room, std::string_view message) {
  log(LogLevel::kDebug, room, message);
}
inline void log_info(std::string_view room, std::string_view message) { log(LogLevel::kInfo, room, message); }
inline void log_warning(std::string_view room, std::string_view message) {
  log(LogLevel::kWarning, room, message);
}
inline void log_error(std::string_view room, std::string_view message) {
  log(LogLevel::kError, room, message);
}

}  // namespace baton
