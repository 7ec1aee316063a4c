#include "text/jinja/template.h"

#include "text/jinja/ast.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"

namespace baton::text::jinja {

std::tm system_local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return local;
}

Result<Template> Template::compile(std::string_view source, LocalTime local_time) {
  TRY(Program program, parse(source));
  return Template(std::make_shared<const Program>(std::move(program)), std::move(local_time));
}

Result<std::string> Template::render(const std::vector<std::pair<std::string, Value>>& variables,
                                     uint64_t steps_max) const {
  return Interpreter(*program_, local_time_, steps_max).run(variables);
}

}  // namespace baton::text::jinja
