#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "options/help.h"
#include "options/tool_options.h"

namespace baton::options {
namespace {

using Words = std::vector<std::string>;

TEST(Tools, WordsAndFlagsMayComeInAnyOrder) {
  for (const Words& argv : {Words{"f.record", "--model", "m"}, Words{"--model=m", "f.record"}}) {
    const auto options = parse_replay(argv);
    ASSERT_TRUE(options) << options.error().message;
    EXPECT_EQ(options->file, "f.record");
    EXPECT_EQ(options->model, "m");
    EXPECT_EQ(options->request, "");
  }
  EXPECT_EQ(parse_replay(Words{"r.json", "--model", "m", "--request", "b.json"})->request, "b.json");
  const auto written = parse_random_checkpoint(Words{"tiny", "--seed", "7", "out", "--tokenizer", "t"});
  ASSERT_TRUE(written) << written.error().message;
  EXPECT_EQ(written->shape, "tiny");
  EXPECT_EQ(written->directory, "out");
  EXPECT_EQ(written->tokenizer, "t");
  EXPECT_EQ(written->seed, 7U);
}

TEST(Tools, RefusalsNameWhatIsMissingOrTooMuch) {
  EXPECT_EQ(parse_replay(Words{"--model", "m"}).error().message,
            "FILE: missing, expected baton replay FILE --model DIR");
  EXPECT_EQ(parse_replay(Words{"a"}).error().message,
            "--model: missing, expected baton replay FILE --model DIR");
  EXPECT_EQ(parse_replay(Words{"a", "b", "--model", "m"}).error().message,
            "b: one word too many, expected baton replay FILE --model DIR");
  EXPECT_EQ(parse_replay(Words{"a", "--modle", "m"}).error().message,
            "unknown flag --modle (did you mean --model?)");
  EXPECT_EQ(parse_random_checkpoint(Words{"tiny", "--tokenizer", "t"}).error().message,
            "DIRECTORY: missing, expected baton random-checkpoint SHAPE DIRECTORY --tokenizer DIR");
  EXPECT_TRUE(parse_random_checkpoint(Words{"--help"})->help);
}

TEST(Tools, TopTakesTheProxysAddress) {
  const auto options = parse_top(Words{"[::1]:8000", "--once", "--json"}, {{"BATON_ADMIN_KEY", "k"}});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->proxy, (Endpoint{"::1", 8000}));
  EXPECT_TRUE(options->once);
  EXPECT_TRUE(options->json);
  EXPECT_EQ(options->admin_key, "k");
  EXPECT_EQ(parse_top(Words{"h:1", "--admin-key", "other"}, {{"BATON_ADMIN_KEY", "k"}})->admin_key, "other");
  EXPECT_EQ(parse_top(Words{"nowhere"}, {}).error().message, "nowhere: expected host:port or [IPv6]:port");
  EXPECT_EQ(parse_top(Words{}, {}).error().message,
            "PROXY: missing, expected baton top PROXY [--once] [--json] [--admin-key KEY]");
}

TEST(Completion, EveryShellKnowsEveryFlagThatDoesSomething) {
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    const auto script = completion_script(shell);
    ASSERT_TRUE(script) << script.error().message;
    for (const Command& command : commands()) {
      EXPECT_NE(script->find(command.name), std::string::npos) << shell;
      for (const Flag& flag : command.flags) {
        const std::string spelling =
            shell == "fish" ? " -l " + std::string(flag.name.substr(2)) + " " : std::string(flag.name);
        const bool works = flag.treatment == Treatment::kImplemented || flag.treatment == Treatment::kMapped;
        if (works) EXPECT_NE(script->find(spelling), std::string::npos) << shell << ' ' << flag.name;
        if (flag.name == "--ssl-keyfile") EXPECT_EQ(script->find(spelling), std::string::npos) << shell;
      }
    }
  }
  EXPECT_EQ(completion_script("tcsh").error().message,
            "tcsh: not a shell that is known, expected one of bash, zsh, fish");
}

}  // namespace
}  // namespace baton::options
