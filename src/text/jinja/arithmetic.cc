#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/format.h"
#include "text/jinja/operators.h"

namespace baton::text::jinja {
namespace {

constexpr std::string_view kSymbols[] = {"+", "-", "*", "/", "//", "%", "**"};

Failure no_such_operation(Op op, const Value& a, const Value& b) {
  if (const Undefined* u = a.get<Undefined>()) return type_error(undefined_message(*u));
  if (const Undefined* u = b.get<Undefined>()) return type_error(undefined_message(*u));
  if (op == Op::kAdd && (a.is<Text>() || a.is<ListRef>())) {
    return type_error(
        fmt::format("can only concatenate {} (not \"{}\") to {}", type_name(a), type_name(b), type_name(a)));
  }
  return type_error(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'",
                                kSymbols[static_cast<size_t>(op)], type_name(a), type_name(b)));
}

Failure too_large() { return type_error("an integer of more than 127 bits"); }

Result<Value> integer_power(Int base, Int exponent) {
  if (exponent < 0) {
    if (base == 0) return type_error("0.0 cannot be raised to a negative power");
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  Int result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return too_large();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return too_large();
  }
  return Value(result);
}

Result<Value> integers(Op op, Int a, Int b) {
  Int result = 0;
  switch (op) {
    case Op::kAdd:
      return __builtin_add_overflow(a, b, &result) ? Result<Value>(too_large()) : Value(result);
    case Op::kSubtract:
      return __builtin_sub_overflow(a, b, &result) ? Result<Value>(too_large()) : Value(result);
    case Op::kMultiply:
      return __builtin_mul_overflow(a, b, &result) ? Result<Value>(too_large()) : Value(result);
    case Op::kPower:
      return integer_power(a, b);
    default:
      break;
  }
  if (b == 0)
    return type_error(op == Op::kDivide ? "division by zero" : "integer division or modulo by zero");
  if (op == Op::kDivide) return Value(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) {
    if (op == Op::kModulo) return Value(Int{0});
    return negate(Value(a));
  }
  const Int remainder = a % b;
  const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
  if (op == Op::kModulo) return Value(adjust ? remainder + b : remainder);
  return Value(adjust ? a / b - 1 : a / b);
}

Result<Value> floats(Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return Value(a + b);
    case Op::kSubtract:
      return Value(a - b);
    case Op::kMultiply:
      return Value(a * b);
    case Op::kPower: {
      if (a == 0 && b < 0) return type_error("0.0 cannot be raised to a negative power");
      const double result = std::pow(a, b);
      if (std::isnan(result) && !std::isnan(a) && !std::isnan(b))
        return type_error("the power is not a real number");
      if (std::isinf(result) && std::isfinite(a) && std::isfinite(b))
        return type_error("Numerical result out of range");
      return Value(result);
    }
    default:
      break;
  }
  if (b == 0) return type_error(op == Op::kDivide ? "float division by zero" : "float modulo");
  if (op == Op::kDivide) return Value(a / b);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (op == Op::kModulo) return Value(remainder == 0 ? std::copysign(0.0, b) : remainder);
  return Value(std::floor((a - remainder) / b + 0.5));
}

Result<Value> repeat(Meter& meter, const Value& value, Int count) {
  const auto times = static_cast<uint64_t>(count <= 0 ? 0 : count > (Int{1} << 40) ? (Int{1} << 40) : count);
  if (const Text* text = value.get<Text>()) {
    if (text->size() == 0) return value;
    if (times * text->size() > kStringBytesMax) {
      return type_error(fmt::format("a string of more than {} bytes", kStringBytesMax));
    }
    TRY_DO(meter.bytes(times * text->size()));
    if (times == 0) return Value(Text());
    const size_t total = times * text->size();
    std::string out(text->view());
    out.reserve(total);
    while (out.size() < total) out.append(out, 0, std::min(out.size(), total - out.size()));
    return make_text(std::move(out), text->safe());
  }
  const List& list = **value.get<ListRef>();
  if (times * list.items.size() > kListItemsMax) {
    return type_error(fmt::format("a list of more than {} items", kListItemsMax));
  }
  TRY_DO(meter.steps(times * list.items.size()));
  std::vector<Value> items;
  for (uint64_t i = 0; i < times && !list.items.empty(); ++i)
    items.insert(items.end(), list.items.begin(), list.items.end());
  return make_list(std::move(items), list.kind);
}

Result<Value> add_texts(Meter& meter, const Text& a, const Text& b) {
  if (a.size() + b.size() > kStringBytesMax) {
    return type_error(fmt::format("a string of more than {} bytes", kStringBytesMax));
  }
  TRY_DO(meter.bytes(b.size()));
  if (a.safe() == b.safe()) return Value(Text::concat(a, b.view(), a.safe()));
  const Text left(a.safe() ? std::string(a.view()) : html_escaped(a.view()));
  return Value(Text::concat(left, b.safe() ? std::string(b.view()) : html_escaped(b.view()), true));
}

Result<Value> add_lists(Meter& meter, const List& a, const List& b) {
  TRY_DO(meter.steps(a.items.size() + b.items.size()));
  std::vector<Value> items = a.items;
  items.insert(items.end(), b.items.begin(), b.items.end());
  return make_list(std::move(items), a.is_list() ? List::Kind::kList : List::Kind::kTuple);
}

bool is_sequence(const Value& value) {
  const ListRef* list = value.get<ListRef>();
  return value.is<Text>() || (list && !(*list)->is_view());
}

}  // namespace

const Int* as_integer(const Value& value, Int& storage) {
  if (const bool* flag = value.get<bool>()) {
    storage = *flag ? 1 : 0;
    return &storage;
  }
  if (const Int* whole = value.get<Int>()) {
    storage = *whole;
    return &storage;
  }
  return nullptr;
}

Result<Value> arithmetic(Meter& meter, Op op, const Value& a, const Value& b) {
  Int x = 0;
  Int y = 0;
  const Int* i = as_integer(a, x);
  const Int* j = as_integer(b, y);
  if (i && j) return integers(op, x, y);
  const double* p = a.get<double>();
  const double* q = b.get<double>();
  if ((p || i) && (q || j))
    return floats(op, p ? *p : static_cast<double>(x), q ? *q : static_cast<double>(y));
  const Text* text = a.get<Text>();
  if (op == Op::kModulo && text) return percent_format(meter, *text, b);
  if (op == Op::kMultiply && i && is_sequence(b)) return repeat(meter, b, x);
  if (op == Op::kMultiply && j && is_sequence(a)) return repeat(meter, a, y);
  if (op != Op::kAdd) return no_such_operation(op, a, b);
  if (text && b.is<Text>()) return add_texts(meter, *text, *b.get<Text>());
  const ListRef* left = a.get<ListRef>();
  const ListRef* right = b.get<ListRef>();
  if (left && right && !(*left)->is_view() && !(*right)->is_view() &&
      (*left)->is_list() == (*right)->is_list()) {
    return add_lists(meter, **left, **right);
  }
  return no_such_operation(op, a, b);
}

Result<Value> negate(const Value& value) {
  Int whole = 0;
  if (as_integer(value, whole)) {
    Int result = 0;
    if (__builtin_sub_overflow(Int{0}, whole, &result)) return too_large();
    return Value(result);
  }
  if (const double* real = value.get<double>()) return Value(-*real);
  if (const Undefined* u = value.get<Undefined>()) return type_error(undefined_message(*u));
  return type_error(fmt::format("bad operand type for unary -: '{}'", type_name(value)));
}

Result<Value> compare(Meter& meter, Comparison comparison, const Value& a, const Value& b) {
  switch (comparison) {
    case Comparison::kEqual: {
      TRY(const bool same, equals(meter, a, b));
      return Value(same);
    }
    case Comparison::kNotEqual: {
      TRY(const bool same, equals(meter, a, b));
      return Value(!same);
    }
    case Comparison::kLess: {
      TRY(const bool is_less, less(meter, a, b));
      return Value(is_less);
    }
    case Comparison::kGreater: {
      TRY(const bool is_less, less(meter, b, a));
      return Value(is_less);
    }
    case Comparison::kLessEqual:
    case Comparison::kGreaterEqual: {
      const bool greater = comparison == Comparison::kGreaterEqual;
      TRY(const bool is_less, less(meter, greater ? b : a, greater ? a : b));
      if (is_less) return Value(true);
      TRY(const bool same, equals(meter, a, b));
      return Value(same);
    }
    case Comparison::kIn: {
      TRY(const bool found, contains(meter, a, b));
      return Value(found);
    }
    case Comparison::kNotIn: {
      TRY(const bool found, contains(meter, a, b));
      return Value(!found);
    }
  }
  return Value(false);
}

}  // namespace baton::text::jinja
