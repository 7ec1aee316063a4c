// A compiled Jinja2 template in the dialect that chat templates are written for: the environment of Hugging
// Face's transformers (sandboxed, immutable; trim_blocks, lstrip_blocks, loop controls; tojson as plain JSON;
// raise_exception, strftime_now). Compile once, render from any number of threads. What a rendering may use
// is bounded by limits.h.
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/jinja/value.h"

namespace baton::text::jinja {

struct Program;

// The civil time that strftime_now formats.
using LocalTime = std::function<std::tm()>;
std::tm system_local_time();

class Template {
 public:
  // kCorrupt, "chat template, line N: expected …, got …".
  static Result<Template> compile(std::string_view source, LocalTime local_time = system_local_time);

  // kInvalid: the template's raise_exception (its message as it is), an operation that Python would refuse,
  // or a limit ("chat template, line N: …").
  Result<std::string> render(const std::vector<std::pair<std::string, Value>>& variables,
                             uint64_t steps_max = kStepsMax) const;

 private:
  Template(std::shared_ptr<const Program> program, LocalTime local_time)
      : program_(std::move(program)), local_time_(std::move(local_time)) {}

  std::shared_ptr<const Program> program_;  // shared by copies of the template
  LocalTime local_time_;
};

}  // namespace baton::text::jinja
