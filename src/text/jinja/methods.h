// The tables of built-in methods. operators.h: find_method() looks into them.
#pragma once

#include <span>

#include "text/jinja/operators.h"

namespace baton::text::jinja {

std::span<const Method> text_methods();

}  // namespace baton::text::jinja
