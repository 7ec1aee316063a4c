// Tests: `value is name`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/parameters.h"
#include "text/jinja/split.h"

namespace baton::text::jinja {
namespace {

using Holds = Result<bool>;

template <bool (*Check)(const Value&)>
Holds simple(Meter& /*meter*/, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("test", arguments, {}));
  return Check(input);
}

bool is_defined(const Value& v) { return !v.is<Undefined>(); }
bool is_undefined(const Value& v) { return v.is<Undefined>(); }
bool is_none(const Value& v) { return v.is<None>(); }
bool is_boolean(const Value& v) { return v.is<bool>(); }
bool is_true(const Value& v) { return v.is<bool>() && *v.get<bool>(); }
bool is_false(const Value& v) { return v.is<bool>() && !*v.get<bool>(); }
bool is_whole(const Value& v) { return v.is<Int>(); }
bool is_float(const Value& v) { return v.is<double>(); }
bool is_number(const Value& v) { return v.is<Int>() || v.is<double>() || v.is<bool>(); }
bool is_string(const Value& v) { return v.is<Text>(); }
bool is_mapping(const Value& v) { return v.is<DictRef>(); }
bool is_escaped(const Value& v) { return v.is<Text>() && v.get<Text>()->safe(); }
bool is_sequence(const Value& v) {
  const ListRef* list = v.get<ListRef>();
  return v.is<Text>() || v.is<DictRef>() || v.is<Range>() || v.is<Undefined>() || object<Bytes>(v) ||
         (list && !(*list)->is_view());
}
bool is_iterable(const Value& v) {
  return is_sequence(v) || v.is<ListRef>() || object<Generator>(v) || object<Loop>(v);
}

template <bool Lower>
Holds has_case(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("test", arguments, {}));
  TRY(const std::string text, to_text(meter, input));
  return is_cased_as(text, Lower);
}

template <Comparison C>
Holds compares(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("test", arguments, {"other"}, 1));
  TRY(const Value holds, compare(meter, C, input, *p[0]));
  return truthy(holds);
}

Holds remainder_is(Meter& meter, const Value& input, Int divisor, Int expected) {
  TRY(const Value rest, arithmetic(meter, Op::kModulo, input, Value(divisor)));
  return equals(meter, rest, Value(expected));
}

Holds is_odd(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("odd", arguments, {}));
  return remainder_is(meter, input, 2, 1);
}

Holds is_even(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("even", arguments, {}));
  return remainder_is(meter, input, 2, 0);
}

Holds is_divisible_by(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("divisibleby", arguments, {"num"}, 1));
  TRY(const Value rest, arithmetic(meter, Op::kModulo, input, *p[0]));
  return equals(meter, rest, Value(Int{0}));
}

Holds is_same_as(Meter& meter, const Value& input, const Arguments& arguments) {
  TRY(const Parameters p, bind("sameas", arguments, {"other"}, 1));
  if (input.data().index() != p[0]->data().index()) return false;
  if (const ListRef* list = input.get<ListRef>()) return *list == *p[0]->get<ListRef>();
  if (const DictRef* dict = input.get<DictRef>()) return *dict == *p[0]->get<DictRef>();
  return equals(meter, input, *p[0]);
}

Holds is_filter(Meter& /*meter*/, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("filter", arguments, {}));
  const Text* name = input.get<Text>();
  return name && find_filter(name->view()) != nullptr;
}

Holds is_test(Meter& /*meter*/, const Value& input, const Arguments& arguments) {
  TRY_DO(bind("test", arguments, {}));
  const Text* name = input.get<Text>();
  return name && find_test(name->view()) != nullptr;
}

constexpr Test kTests[] = {
    {"!=", compares<Comparison::kNotEqual>},
    {"<", compares<Comparison::kLess>},
    {"<=", compares<Comparison::kLessEqual>},
    {"==", compares<Comparison::kEqual>},
    {">", compares<Comparison::kGreater>},
    {">=", compares<Comparison::kGreaterEqual>},
    {"boolean", simple<is_boolean>},
    {"callable", simple<callable>},
    {"defined", simple<is_defined>},
    {"divisibleby", is_divisible_by},
    {"eq", compares<Comparison::kEqual>},
    {"equalto", compares<Comparison::kEqual>},
    {"escaped", simple<is_escaped>},
    {"even", is_even},
    {"false", simple<is_false>},
    {"filter", is_filter},
    {"float", simple<is_float>},
    {"ge", compares<Comparison::kGreaterEqual>},
    {"greaterthan", compares<Comparison::kGreater>},
    {"gt", compares<Comparison::kGreater>},
    {"in", compares<Comparison::kIn>},
    {"integer", simple<is_whole>},
    {"iterable", simple<is_iterable>},
    {"le", compares<Comparison::kLessEqual>},
    {"lessthan", compares<Comparison::kLess>},
    {"lower", has_case<true>},
    {"lt", compares<Comparison::kLess>},
    {"mapping", simple<is_mapping>},
    {"ne", compares<Comparison::kNotEqual>},
    {"none", simple<is_none>},
    {"number", simple<is_number>},
    {"odd", is_odd},
    {"sameas", is_same_as},
    {"sequence", simple<is_sequence>},
    {"string", simple<is_string>},
    {"test", is_test},
    {"true", simple<is_true>},
    {"undefined", simple<is_undefined>},
    {"upper", has_case<false>},
};
static_assert(std::ranges::is_sorted(kTests, {}, &Test::name));

}  // namespace

const Test* find_test(std::string_view name) {
  const auto* at = std::ranges::lower_bound(kTests, name, {}, &Test::name);
  return at != std::end(kTests) && at->name == name ? at : nullptr;
}

}  // namespace baton::text::jinja
