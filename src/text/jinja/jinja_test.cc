// What the goldens do not show: limits, error messages, isolation of renderings.
#include <gtest/gtest.h>

#include "text/jinja/template.h"

namespace baton::text::jinja {
namespace {

constexpr uint64_t kTestStepsMax = 500'000;  // keeps the tests short

Result<std::string> render(std::string_view source) {
  TRY(const Template compiled, Template::compile(source));
  TRY(const Value list, make_list({Value::integer(1), Value::integer(2)}));
  return compiled.render({{"list", list}, {"name", Value::text("Ann")}}, kTestStepsMax);
}

struct Row {
  std::string_view source;
  std::string_view expected;
};

TEST(Jinja, NamesTheLineAndWhatItExpected) {
  constexpr Row kRows[] = {
      {"a\n{{ 1 + }}", "chat template, line 2: expected an expression, got end of print statement"},
      {"{% if x %}\n\nb",
       "chat template, line 3: expected 'elif' or 'else' or 'endif' for the 'if' of line 1, got end of "
       "template"},
      {"{% for x in y %}{% endif %}",
       "chat template, line 1: expected 'endfor' or 'else' for the 'for' of line 1, got 'endif'"},
      {"\n{% nope %}", "chat template, line 2: unknown tag 'nope'"},
      {"{{ 'a }}",
       "chat template, line 1: expected ', the end of the string that starts here, got end of template"},
      {"{{ (1] }}", "chat template, line 1: expected ')', got ']'"},
      {"{{ x | nope }}", "chat template, line 1: there is no filter 'nope'"},
      {"{# x", "chat template, line 1: expected '#}', the end of this comment, got end of template"},
      {"{% for %}{% endfor %}", "chat template, line 1: expected an expression, got end of statement block"},
      {"{% break %}", "chat template, line 1: expected 'break' and 'continue' within a loop only"},
      {"{{ '\\ud800' }}", "chat template, line 1: expected a character after '\\u', as 4 digits"},
      {"\xff", "chat template: invalid UTF-8"},
  };
  for (const auto& [source, expected] : kRows) {
    const auto compiled = Template::compile(source);
    ASSERT_FALSE(compiled) << source;
    EXPECT_EQ(compiled.error().code, Code::kCorrupt) << source;
    EXPECT_EQ(compiled.error().message, expected) << source;
  }
}

TEST(Jinja, NamesTheLineThatFailed) {
  constexpr Row kRows[] = {
      {"\n\n{{ nope.x }}", "chat template, line 3: 'nope' is undefined"},
      {"{% if true %}\n{{ {'a': 1}.b.c }}{% endif %}",
       "chat template, line 2: 'dict object' has no attribute 'b'"},
      {"{% macro m() %}\n\n{{ 1 / 0 }}{% endmacro %}{{ m() }}", "chat template, line 3: division by zero"},
      {"{{ raise_exception('as it is') }}", "as it is"},
      {"{% include 'x' %}",
       "chat template, line 1: 'include' needs another template, and a chat template stands alone"},
      {"{{ name.__class__.x }}",
       "chat template, line 1: access to attribute '__class__' of 'str' object is unsafe."},
      {"{{ list.append(1) }}",
       "chat template, line 1: access to attribute 'append' of 'list' object is unsafe."},
  };
  for (const auto& [source, expected] : kRows) {
    const auto rendered = render(source);
    ASSERT_FALSE(rendered) << source;
    EXPECT_EQ(rendered.error().code, Code::kInvalid) << source;
    EXPECT_EQ(rendered.error().message, expected) << source;
  }
}

TEST(Jinja, StopsAtItsLimitsAndNamesThem) {
  constexpr Row kRows[] = {
      {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
       "takes more than 500000 steps"},
      {"{% for a in range(100001) %}{% endfor %}", "range() of 100001 items, at most 100000 are allowed"},
      {"{{ 'x' * 100000000 }}", "a string of more than 67108864 bytes"},
      {"{{ [1] * 5000000 }}", "a list of more than 4000000 items"},
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested more than 600 deep"},
      {"{% for x in list recursive %}{{ loop(list) }}{% endfor %}", "nested more than 600 deep"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}",
       "values are nested too deeply"},
      {"{% set ns = namespace(x='') %}{% for i in range(1000) %}{% set ns.x = cycler(ns.x) %}{% endfor %}",
       "values are nested too deeply"},
      {"{% set ns = namespace(x=['x' * 1000]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% "
       "endfor %}"
       "{{ ns.x }}",
       "a string of more than 67108864 bytes"},
      {"{% set ns = namespace(x=[], y=[]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}"
       "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
       "takes more than 500000 steps"},
      {"{% for i in range(200) %}{{ 'x' * 1000000 }}{% endfor %}",
       "the output is larger than 67108864 bytes"},
      {"{% for i in range(100) %}{% set x = 'x' * 60000000 %}{% endfor %}",
       "copies more than 1073741824 bytes"},
      {"{{ 2 ** 127 }}", "an integer of more than 127 bits"},
      {"{{ '%99999999d' % 1 }}", "a width of more than 100000"},
      {"{{ 'a'.ljust(99999999) }}", "a width of 99999999, at most 100000 is allowed"},
  };
  for (const auto& [source, expected] : kRows) {
    const auto rendered = render(source);
    ASSERT_FALSE(rendered) << source;
    EXPECT_NE(rendered.error().message.find(expected), std::string::npos)
        << source << ": " << rendered.error().message;
  }
}

TEST(Jinja, RefusesExpressionsAndTagsThatAreNestedTooDeeply) {
  const auto repeat = [](std::string_view part, int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += part;
    return text;
  };
  const std::string sources[] = {"{{ " + repeat("(", 5000) + "1" + repeat(")", 5000) + " }}",
                                 "{{ " + repeat("[", 5000) + repeat("]", 5000) + " }}",
                                 "{{ 1" + repeat(" + 1", 5000) + " }}",
                                 "{{ x" + repeat(".x", 5000) + " }}",
                                 "{{ " + repeat("not ", 5000) + "1 }}",
                                 "{{ " + repeat("-", 5000) + "1 }}",
                                 "{{ 1" + repeat(" if 1 else 1", 5000) + " }}",
                                 "{{ x" + repeat("|trim", 5000) + " }}",
                                 repeat("{% if 1 %}", 5000) + repeat("{% endif %}", 5000)};
  for (const std::string& source : sources) {
    const auto compiled = Template::compile(source);
    ASSERT_FALSE(compiled) << source.substr(0, 40);
    EXPECT_EQ(compiled.error().code, Code::kCorrupt);
  }
}

TEST(Jinja, StartsEachRenderingAnew) {
  const auto compiled = Template::compile(
      "{% set ns = namespace(x=x) %}{% set ns.x = ns.x + 1 %}{% set y = 1 %}{{ ns.x }}{{ z is defined }}"
      "{% set z = 1 %}");
  ASSERT_TRUE(compiled);
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(compiled->render({{"x", Value::integer(i)}}), std::to_string(i + 1) + "False");
}

TEST(Jinja, FreesWhatRefersToItself) {
  EXPECT_EQ(
      render(
          "{% set ns = namespace() %}{% set ns.me = ns %}{% macro m() %}{{ m.name }}{% endmacro %}"
          "{% set ns.m = m %}{% for x in list %}{{ loop.changed(loop) }}{% set ns.l = loop %}{% endfor %}"),
      "TrueFalse");
}

TEST(Jinja, AppendsWithoutDisturbingTheShorterString) {
  EXPECT_EQ(
      render("{% set a = 'x' * 300 %}{% set b = a + 'b' %}{% set c = b + 'c' %}{% set d = b + 'd' %}{% set e "
             "= c + c %}"
             "{{ a | length }} {{ b[-2:] }} {{ c[-2:] }} {{ d[-2:] }} {{ e | length }} {{ (c + 'e')[-3:] }}"),
      "300 xb bc bd 604 bce");
}

TEST(Jinja, AsksALazyConditionAsTheLoopGoes) {
  EXPECT_EQ(render("{% set ns = namespace(n=0) %}{% for i in range(9) if ns.n < 2 %}{% set ns.n = ns.n + 1 "
                   "%}{{ i }}{% endfor %}"),
            "01");
}

TEST(Jinja, SortsStablyEvenWhatHasNoOrder) {
  EXPECT_EQ(render("{{ [[2, 'b'], [1, 'x'], [2, 'a']] | sort(attribute=0) | map('last') | join }}"), "xba");
  EXPECT_TRUE(render("{{ [1, 'nan' | float, 0, 'nan' | float, -1] | sort | length }}"));
}

TEST(Jinja, AgreesWithPythonWhereTheGoldensAreSilent) {
  constexpr Row kRows[] = {
      {"{{ ' a  b '.split(none, 1) }} {{ '  x y z '.rsplit(none, 1) }}", "['a', 'b '] ['  x y', 'z']"},
      {"{{ 'ΑΣ'.lower() }} {{ 'ŉ'.upper() }} {{ 'ﬁn'.title() }} {{ 'İ'.lower() | length }}", "ας ʼN Fin 2"},
      {"{{ 5 // -2 }} {{ -5 % -3 }} {{ 5.5 % -2 }} {{ -7.5 // 2 }}", "-3 -2 -0.5 -4.0"},
      {"{{ range(10)[2:8:3] }} {{ range(10)[::-2] | list }}", "range(2, 8, 3) [9, 7, 5, 3, 1]"},
      {"{{ '{:+,.3f} {:%} {:#b} {:^9}|{:05d}'.format(1234.5, 0.25, 5, 'mid', 42) }}",
       "+1,234.500 25.000000% 0b101    mid   |00042"},
      {"{{ 'abc'.center(6, '*') }} {{ 'abcd'.center(7, '*') }} {{ '-5'.zfill(4) }}", "*abc** **abcd* -005"},
      {"{{ {1: 'a', true: 'b', 1.0: 'c'} }} {{ [1, 1.0, true] | unique | list }}", "{1: 'c'} [1]"},
      {"{{ 1e16 }} {{ 123456789012345680.0 }} {{ 0.0001 }} {{ 0.00001 }} {{ -0.0 }}",
       "1e+16 1.2345678901234568e+17 0.0001 1e-05 -0.0"},
      {"{{ m is defined }}{% if true %}{% macro m() %}{{ g }}{% endmacro %}{% endif %}{% set g = 3 %}{{ m() "
       "}}",
       "False3"},
  };
  for (const auto& [source, expected] : kRows) EXPECT_EQ(render(source), std::string(expected)) << source;
}

}  // namespace
}  // namespace baton::text::jinja
