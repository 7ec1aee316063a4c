// A compiled template: statements and expressions as a tree. Never changes after parsing; any number of
// threads may render it at once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text/jinja/object.h"
#include "text/jinja/value.h"

namespace baton::text::jinja {

struct Filter;  // rows of the tables in filters.h
struct Test;

// A variable: its place in Program::names.
enum class NameId : uint32_t {};

enum class ExprKind : uint8_t {
  kConstant,      // constant
  kName,          // name
  kNamespaceRef,  // name . text, only as a target of set
  kList,
  kTuple,
  kDict,       // items: key, value, key, value, ...
  kCondition,  // items: value, condition, other value or null
  kAnd,
  kOr,
  kNot,
  kNegate,
  kPlus,
  kBinary,     // op
  kConcat,     // items joined as text: a ~ b ~ c
  kCompare,    // items[0] ops[0] items[1] ops[1] ...
  kAttribute,  // items[0] . text
  kItem,       // items[0] [ items[1] ]
  kSlice,      // only as items[1] of kItem; three items, each may be null
  kCall,       // items[0] ( arguments )
  kFilter,     // items[0] (null in a filter block) | text ( arguments )
  kTest,       // items[0] is text ( arguments )
};

enum class Op : uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class Comparison : uint8_t {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct CallNode {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> keyword;
  ExprPtr star;         // *args
  ExprPtr double_star;  // **kwargs
};

struct Expr {
  ExprKind kind = ExprKind::kConstant;
  Op op = Op::kAdd;
  NameId name{};
  uint32_t line = 1;
  uint32_t depth = 1;  // of the tree below, itself included
  Value constant;
  Text text;
  std::vector<ExprPtr> items;
  std::vector<Comparison> ops;
  std::unique_ptr<CallNode> call;
  const Filter* filter = nullptr;  // null when no such filter exists: an error when evaluated
  const Test* test = nullptr;
};

struct Statement;
using Body = std::vector<Statement>;

enum class StatementKind : uint8_t {
  kData,         // data
  kPrint,        // value
  kFor,          // target, value, condition (may be null), body, otherwise
  kIf,           // conditions[i] with bodies[i], otherwise
  kSet,          // target, value
  kSetBlock,     // target, value (a filter or null), body
  kWith,         // targets, conditions (the values), body
  kMacro,        // macro
  kCallBlock,    // value (a call), macro (the caller)
  kFilterBlock,  // value, body
  kScope,        // body in its own scope: generation, block
  kBreak,
  kContinue,
  kUnsupported,  // data: the error when it is reached
};

struct MacroNode {
  Text name;
  uint32_t line = 1;
  std::vector<NameId> parameters;
  std::vector<Text> parameter_names;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Body body;
  bool uses_caller = false;
  bool uses_varargs = false;
  bool uses_kwargs = false;
};

struct Statement {
  StatementKind kind = StatementKind::kData;
  uint32_t line = 1;
  std::string data;
  ExprPtr target;
  ExprPtr value;
  ExprPtr condition;
  std::vector<ExprPtr> targets;
  std::vector<ExprPtr> conditions;
  std::vector<Body> bodies;
  Body body;
  Body otherwise;
  std::unique_ptr<MacroNode> macro;
  NameId macro_name{};
  bool recursive = false;
  bool uses_loop = false;  // the body mentions `loop`
  bool at_root = false;    // kScope of a block: sees the template's variables only
};

struct Program {
  std::vector<std::string> names;  // by NameId
  Body body;
  NameId loop{}, caller{}, varargs{}, kwargs{};
};

}  // namespace baton::text::jinja
