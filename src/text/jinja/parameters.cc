#include "text/jinja/parameters.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/operators.h"

namespace baton::text::jinja {

Result<Text> Parameters::text(size_t i, std::string_view fallback) const {
  if (!values[i]) return Text(std::string(fallback));
  if (const Text* given = values[i]->get<Text>()) return *given;
  return type_error(fmt::format("expected a string as argument, got '{}'", type_name(*values[i])));
}

Result<int64_t> Parameters::integer(size_t i, int64_t fallback) const {
  if (!values[i]) return fallback;
  Int whole = 0;
  if (!as_integer(*values[i], whole)) {
    return type_error(fmt::format("'{}' object cannot be interpreted as an integer", type_name(*values[i])));
  }
  constexpr Int kFar = Int{1} << 62;
  return static_cast<int64_t>(std::clamp(whole, -kFar, kFar));
}

Result<Parameters> bind(std::string_view function, const Arguments& arguments,
                        std::initializer_list<std::string_view> names, size_t required) {
  Parameters bound;
  if (arguments.positional.size() > names.size()) {
    return type_error(fmt::format("{}() takes at most {} arguments ({} given)", function, names.size(),
                                  arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) bound.values[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.keyword) {
    const auto* at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) {
      return type_error(fmt::format("{}() got an unexpected keyword argument '{}'", function, name));
    }
    const Value*& place = bound.values[static_cast<size_t>(at - names.begin())];
    if (place) return type_error(fmt::format("{}() got multiple values for argument '{}'", function, name));
    place = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!bound.values[i]) {
      return type_error(fmt::format("{}() missing required argument '{}'", function, *(names.begin() + i)));
    }
  }
  return bound;
}

}  // namespace baton::text::jinja
