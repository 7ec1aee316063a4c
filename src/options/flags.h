// Flags as data: a table row says how a flag is spelled, what its values are, how Baton treats it and what
// --help says. One parser reads every command's table by the rules of vLLM's FlexibleArgumentParser
// (vllm/utils/__init__.py) and Python's argparse, so that command lines written for those programs work:
//   `_` equals `-` in names; `--x=y` equals `--x y`; a unique prefix names a flag; `--no-x` for switches;
//   lists take every value up to the next flag; `--x.key value`, `--x.key+ v1,v2` build the JSON of `--x`;
//   `--config file.yaml` inserts the file's values before the rest; the last of repeated flags wins, with a
//   warning.
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::options {

namespace json = boost::json;

using Environment = std::map<std::string, std::string, std::less<>>;

// The variables of this process.
Environment process_environment();

enum class Kind {
  kSwitch,  // --x, and --no-x when `negatable`
  kInteger,
  kHumanInteger,  // also 40k = 40000 and 40K = 40960, m/M, g/G (vllm human_readable_int)
  kNumber,
  kText,
  kChoice,    // one of `values`
  kTexts,     // one or more
  kIntegers,  // one or more
  kJson,      // an object; also built from dotted spellings
};

// What Baton does with a flag, key or variable that other programs know.
enum class Treatment {
  kImplemented,
  kMapped,    // means something of ours
  kNoEffect,  // accepted; all of them share one notice line
  kRejected,  // exit 2
};

struct Flag {
  std::string_view name;          // "--max-model-len"
  std::string_view aliases = {};  // "-tp", several separated by blanks
  Kind kind = Kind::kText;
  Treatment treatment = Treatment::kImplemented;
  std::string_view default_text = {};  // as --help shows it
  std::string_view values = {};  // kChoice: "fcfs|priority"; others: what --help calls the value, "TOKENS"
  std::string_view group = {};   // heading in --help
  std::string_view help = {};    // a sentence; for kNoEffect and kRejected: why
  bool negatable = false;        // kSwitch: --no-x exists
  bool repeatable = false;       // kTexts: given again, it adds its values to those before
};

// An environment variable that a command reads.
struct Variable {
  std::string_view name;
  Treatment treatment = Treatment::kImplemented;
  std::string_view help = {};
};

struct Command {
  std::string_view name;     // "serve"
  std::string_view usage;    // "baton serve MODEL [options]"
  std::string_view summary;  // one sentence
  std::span<const Flag> flags;
  std::span<const Variable> variables;
  std::string_view positional;  // "MODEL", "SHAPE DIRECTORY"; empty: none
};

// Every command that has a table, for docs and `baton --help`.
std::span<const Command> commands();
const Command& serve_command();
const Command& proxy_command();
const Command& replay_command();
const Command& random_checkpoint_command();
const Command& top_command();

// One flag as it was given. `texts` holds what a reader of the table's kind accepts: a switch is "true" or
// "false".
struct Given {
  const Flag* flag = nullptr;
  std::vector<std::string> texts;
  json::object object;       // kJson
  bool whole = false;        // kJson: given as one text, not only dotted
  bool from_config = false;  // by the file, not on the command line
};

// What a command line says, by flag name, before it becomes a struct of options. Readers give nothing for a
// flag that is absent, kInvalid with flag, value and expectation when it does not fit. Bounds are inclusive.
struct Arguments {
  std::map<std::string_view, Given> given;
  std::vector<std::string> positionals;
  std::vector<std::string> warnings;   // of repeated flags
  std::vector<std::string> no_effect;  // names of what was given and does nothing
  bool help = false;                   // --help or -h was given; nothing else was read

  const Given* find(std::string_view flag) const;
  std::optional<bool> switched(std::string_view flag) const;
  std::optional<std::string> text(std::string_view flag) const;
  std::vector<std::string> texts(std::string_view flag) const;
  Result<std::optional<int64_t>> integer(std::string_view flag, int64_t least, int64_t most) const;
  Result<std::optional<double>> number(std::string_view flag, double least, double most) const;
  Result<std::vector<int64_t>> integers(std::string_view flag, int64_t least, int64_t most) const;
  const json::object* object(std::string_view flag) const;
  // kInvalid if one of its texts is empty: `--api-key "$UNSET"` would otherwise open the door.
  Result<void> filled(std::string_view flag) const;
};

inline constexpr size_t kArgumentsMax = 4096;           // words of a command line
inline constexpr size_t kArgumentBytesMax = 1UL << 20;  // bytes of one word
inline constexpr size_t kConfigBytesMax = 1UL << 20;    // bytes of a --config file
inline constexpr int kJsonDepthMax = 32;

// Reads `argv` (the words after the command's name) by the table. Reads the file that --config names.
// kInvalid: "unknown flag --max-model-length (did you mean --max-model-len?)".
Result<Arguments> parse_arguments(const Command& command, std::span<const std::string> argv);

// 40000, "40k", "40K", "1.5k"; vLLM's human_readable_int: lower-case letters are powers of 1000, upper-case
// of 1024 and take whole numbers only.
Result<int64_t> parse_human_integer(std::string_view text);

// The closest of `candidates` (edit distance at most a third of the word's length, or a shared beginning);
// empty if none is close.
std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace baton::options
