// The options of the small commands: `baton replay`, `baton random-checkpoint` and `baton top`.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "options/flags.h"
#include "options/proxy_options.h"

namespace baton::options {

struct ReplayOptions {
  bool help = false;    // --help: print help_text(replay_command()) and exit 0; nothing below is checked
  std::string file;     // a flight record or a receipt
  std::string model;    // the checkpoint's directory
  std::string request;  // of a receipt without token ids: a file with the body that was sent; empty: none
};

struct RandomCheckpointOptions {
  bool help = false;      // as above
  std::string shape;      // checked by who writes it
  std::string directory;  // is created
  std::string tokenizer;  // a directory
  uint64_t seed = 0;
};

struct TopOptions {
  bool help = false;  // as above
  Endpoint proxy;     // where `baton proxy` listens
  bool once = false;
  bool json = false;      // one line of JSON per look
  std::string admin_key;  // sent to the proxy and to its instances; empty: none
};

// `argv`: the words after the command's name. kInvalid: exit 2, message on stderr.
Result<TopOptions> parse_top(std::span<const std::string> argv, const Environment& environment);
Result<ReplayOptions> parse_replay(std::span<const std::string> argv);
Result<RandomCheckpointOptions> parse_random_checkpoint(std::span<const std::string> argv);

}  // namespace baton::options
