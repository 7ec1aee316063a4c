#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "options/config_file.h"
#include "options/flags.h"
#include "options/spelling.h"

namespace baton::options {
namespace {

// What a word such as "--no-enable-prefix-caching" names.
struct Named {
  const Flag* flag = nullptr;
  bool negated = false;
  bool operator==(const Named&) const = default;
};

bool has_alias(const Flag& flag, std::string_view name) {
  bool found = false;
  split(flag.aliases, ' ',
        [&](std::string_view alias) { found = found || (!alias.empty() && alias == name); });
  return found;
}

std::string negative_name(const Flag& flag) { return "--no-" + std::string(flag.name.substr(2)); }

// As argparse: a dash and no blank, but not a negative number.
bool is_flag_word(std::string_view word) {
  if (word.size() < 2 || word[0] != '-' || word.find(' ') != std::string_view::npos) return false;
  double number = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  return error != std::errc{} || end != word.data() + word.size();
}

class Parser {
 public:
  Parser(const Command& command, std::span<const std::string> argv) : command_(command), argv_(argv) {}

  Result<Arguments> run() {
    if (argv_.size() > kArgumentsMax) {
      return fail(Code::kInvalid, fmt::format("{} words, expected at most {}", argv_.size(), kArgumentsMax));
    }
    TRY_DO(read_config());
    if (arguments_.help) return std::move(arguments_);
    while (at_ < argv_.size()) TRY_DO(read_word());
    for (const auto& [name, given] : arguments_.given) {
      if (given.flag->treatment == Treatment::kNoEffect) arguments_.no_effect.emplace_back(name);
    }
    return std::move(arguments_);
  }

 private:
  // Finds --help and --config before anything else is read, and takes the file's values.
  Result<void> read_config() {
    std::optional<std::string> path;
    for (size_t i = 0; i < argv_.size(); ++i) {
      const std::string& word = argv_[i];
      if (word.size() > kArgumentBytesMax) {
        return fail(Code::kInvalid, fmt::format("word {}: {} bytes, expected at most {}", i + 1, word.size(),
                                                kArgumentBytesMax));
      }
      if (word == "--") break;
      if (word == "--help" || word == "-h") arguments_.help = true;
      const bool joined = word.starts_with("--config=");
      if (word != "--config" && !joined) continue;
      if (path) return fail(Code::kInvalid, "--config: given twice, expected one file");
      if (!joined && i + 1 == argv_.size())
        return fail(Code::kInvalid, "--config: no value, expected a file");
      path = joined ? word.substr(word.find('=') + 1) : argv_[i + 1];
    }
    if (!path || arguments_.help) return {};
    TRY(const auto entries, read_config_file(*path));
    for (const ConfigEntry& entry : entries) {
      const auto taken = take_config_entry(entry);
      if (!taken) return fail(taken.error().code, fmt::format("{}: {}", *path, taken.error().message));
    }
    return {};
  }

  Result<void> take_config_entry(const ConfigEntry& entry) {
    TRY(const Named named, resolve(normalised_name("--" + entry.key), "--" + entry.key));
    const Flag& flag = *named.flag;
    if (flag.kind == Kind::kSwitch && !entry.is_switch) {
      return refuse(flag, entry.values.empty() ? "[]" : entry.values[0], "true or false");
    }
    const bool is_list = flag.kind == Kind::kTexts || flag.kind == Kind::kIntegers;
    if (entry.values.empty() || (!is_list && entry.values.size() > 1)) {
      return refuse(flag, fmt::format("{} values", entry.values.size()),
                    is_list ? "one value or more" : "one value");
    }
    return set(named, entry.values, true);
  }

  Result<void> read_word() {
    const std::string& word = argv_[at_++];
    if (only_positionals_ || !is_flag_word(word)) {
      arguments_.positionals.push_back(word);
      return {};
    }
    if (word == "--") {
      only_positionals_ = true;
      return {};
    }
    const size_t equals = word.find('=');
    std::optional<std::string> joined;
    if (equals != std::string::npos) joined = word.substr(equals + 1);
    std::string name = word.substr(0, equals);
    const size_t dot = name.find('.');
    if (dot != std::string::npos && name.starts_with("--")) {
      return read_dotted(name.substr(0, dot), name.substr(dot + 1), std::move(joined));
    }
    TRY(const Named named, resolve(normalised_name(name), name));
    if (named.flag->name == "--config") {  // its values were taken first
      if (!joined) ++at_;
      return {};
    }
    TRY(const auto values, values_of(named, std::move(joined)));
    return set(named, values, false);
  }

  Result<std::vector<std::string>> values_of(const Named& named, std::optional<std::string> joined) {
    const Flag& flag = *named.flag;
    if (flag.kind == Kind::kSwitch) {
      if (joined && *joined != "true" && *joined != "false") return refuse(flag, *joined, "true or false");
      return std::vector<std::string>{joined.value_or("true")};
    }
    if (joined) return std::vector<std::string>{*std::move(joined)};
    std::vector<std::string> values;
    const bool is_list = flag.kind == Kind::kTexts || flag.kind == Kind::kIntegers;
    while (at_ < argv_.size() && !is_flag_word(argv_[at_]) && (is_list || values.empty())) {
      values.push_back(argv_[at_++]);
    }
    if (!values.empty()) return values;
    if (flag.kind == Kind::kJson) {
      return fail(Code::kInvalid,
                  fmt::format("{}: needs a JSON value (missing backslash at the end of a line?)", flag.name));
    }
    return fail(Code::kInvalid, fmt::format("{}: no value, expected {}", flag.name,
                                            flag.values.empty() ? "one" : flag.values));
  }

  // --x.a.b value, --x.a.b+ v1,v2
  Result<void> read_dotted(const std::string& name, std::string path, std::optional<std::string> joined) {
    TRY(const Named named, resolve(normalised_name(name), name));
    const Flag& flag = *named.flag;
    const std::string spelled = fmt::format("{}.{}", flag.name, path);
    if (flag.kind != Kind::kJson) {
      return fail(Code::kInvalid, fmt::format("{}: {} takes no keys", spelled, flag.name));
    }
    if (!joined) {
      if (at_ == argv_.size() || is_flag_word(argv_[at_])) {
        return fail(Code::kInvalid, fmt::format("{}: no value, expected one", spelled));
      }
      joined = argv_[at_++];
    }
    const bool appends = path.ends_with('+');
    if (appends) path.pop_back();
    Given& given = arguments_.given[flag.name];
    given.flag = &flag;
    return put(given.object, path, *joined, appends, spelled);
  }

  static Result<void> put(json::object& root, std::string_view path, std::string_view text, bool appends,
                          std::string_view spelled) {
    json::object* object = &root;
    for (int depth = 0; depth < kJsonDepthMax; ++depth) {
      const size_t dot = path.find('.');
      const std::string_view key = path.substr(0, dot);
      if (key.empty()) return fail(Code::kInvalid, fmt::format("{}: an empty key, expected a name", spelled));
      json::value& value = (*object)[key];
      if (dot != std::string_view::npos) {
        if (value.is_null()) value = json::object();
        if (!value.is_object()) {
          return fail(Code::kInvalid,
                      fmt::format("{}: {} is {}, expected an object", spelled, key, excerpt(value)));
        }
        object = &value.get_object();
        path.remove_prefix(dot + 1);
        continue;
      }
      if (!appends) {
        value = read_value(text);
        return {};
      }
      if (value.is_null()) value = json::array();
      if (!value.is_array()) {
        return fail(Code::kInvalid,
                    fmt::format("{}: {} is {}, expected a list", spelled, key, excerpt(value)));
      }
      split(text, ',', [&](std::string_view word) { value.get_array().push_back(read_value(word)); });
      return {};
    }
    return fail(Code::kInvalid, fmt::format("{}: expected at most {} keys", spelled, kJsonDepthMax));
  }

  // The flag of an exact name, an alias, a --no- form, or a unique beginning of one of them.
  Result<Named> resolve(std::string_view name, std::string_view spelled) const {
    std::vector<Named> close;
    std::vector<std::string> close_names;
    const auto consider = [&](const Flag& flag, const std::string& candidate, bool negated) {
      if (!name.starts_with("--") || !candidate.starts_with(name)) return;
      const Named named{&flag, negated};
      if (std::ranges::find(close, named) != close.end()) return;
      close.push_back(named);
      close_names.push_back(candidate);
    };
    for (const Flag& flag : command_.flags) {
      if (flag.name == name || has_alias(flag, name)) return checked({&flag, false});
      if (flag.negatable && negative_name(flag) == name) return checked({&flag, true});
      consider(flag, std::string(flag.name), false);
      if (flag.negatable) consider(flag, negative_name(flag), true);
    }
    if (close.size() == 1) return checked(close[0]);
    if (close.size() > 1 && name.size() > 2) {
      std::ranges::sort(close_names);
      return fail(Code::kInvalid, fmt::format("{}: could be {}, expected one of them in full",
                                              excerpt(spelled), fmt::join(close_names, ", ")));
    }
    return unknown(name, spelled);
  }

  static Result<Named> checked(Named named) {
    if (named.flag->treatment != Treatment::kRejected) return named;
    return fail(Code::kInvalid, fmt::format("{}: {}", named.flag->name, named.flag->help));
  }

  Failure unknown(std::string_view name, std::string_view spelled) const {
    std::vector<std::string> names;
    for (const Flag& flag : command_.flags) {
      if (flag.treatment == Treatment::kRejected) continue;
      names.emplace_back(flag.name);
      if (flag.negatable) names.push_back(negative_name(flag));
    }
    const std::vector<std::string_view> candidates(names.begin(), names.end());
    const std::string meant = did_you_mean(name, candidates);
    if (meant.empty()) {
      return fail(Code::kInvalid, fmt::format("unknown flag {} (baton {} --help lists them)",
                                              excerpt(spelled), command_.name));
    }
    return fail(Code::kInvalid, fmt::format("unknown flag {} (did you mean {}?)", excerpt(spelled), meant));
  }

  static Failure refuse(const Flag& flag, std::string_view value, std::string_view expectation) {
    return fail(Code::kInvalid, fmt::format("{}: {}, expected {}", flag.name, excerpt(value), expectation));
  }

  Result<void> set(const Named& named, std::vector<std::string> values, bool from_config) {
    const Flag& flag = *named.flag;
    if (flag.kind == Kind::kChoice) {
      bool known = false;
      split(flag.values, '|', [&](std::string_view choice) { known = known || choice == values.back(); });
      if (!known) return refuse(flag, values.back(), "one of " + listed(flag.values));
    }
    if (flag.kind == Kind::kSwitch && named.negated) values[0] = values[0] == "true" ? "false" : "true";
    Given& given = arguments_.given[flag.name];
    const bool again = given.flag != nullptr && !(given.from_config && !from_config);
    const bool is_json = flag.kind == Kind::kJson;
    if (again && flag.repeatable) {
      given.texts.insert(given.texts.end(), values.begin(), values.end());
      return {};
    }
    if (again && (!is_json || given.whole)) {
      arguments_.warnings.push_back(fmt::format("{} given twice, using the last", flag.name));
    }
    given.flag = &flag;
    if (is_json) {
      TRY(json::object object, read_object(flag.name, values.back()));
      if (given.whole) given.object.clear();
      for (auto& entry : object) given.object[entry.key()] = std::move(entry.value());
      given.whole = true;
    }
    given.from_config = from_config;
    given.texts = std::move(values);
    return {};
  }

  const Command& command_;
  const std::span<const std::string> argv_;
  size_t at_ = 0;
  bool only_positionals_ = false;
  Arguments arguments_;
};

}  // namespace

Result<Arguments> parse_arguments(const Command& command, std::span<const std::string> argv) {
  return Parser(command, argv).run();
}

}  // namespace baton::options
