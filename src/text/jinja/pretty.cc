#include "text/jinja/pretty.h"

#include <algorithm>

#include "text/jinja/merge_sort.h"
#include "text/jinja/unicode.h"

namespace baton::text::jinja {
namespace {

constexpr size_t kWidth = 80;

std::vector<Dict::Entry> sorted_entries(const Dict& dict) {
  std::vector<Dict::Entry> entries = dict.entries();
  merge_sort(entries, [](const Dict::Entry& a, const Dict::Entry& b) {
    Meter unbounded;
    return less(unbounded, a.first, b.first).value_or(false);
  });
  return entries;
}

Result<void> append_flat(Meter& meter, const Value& value, std::string& out) {
  const DictRef* dict = value.get<DictRef>();
  if (!dict) return append_repr(meter, value, out);
  TRY(const Value sorted, make_dict(sorted_entries(**dict)));
  return append_repr(meter, sorted, out);
}

// `allowance`: characters that will follow on the last line.
Result<void> append_pretty(Meter& meter, const Value& value, size_t indent, size_t allowance,
                           std::string& out) {
  std::string flat;
  TRY_DO(append_flat(meter, value, flat));
  const ListRef* list = value.get<ListRef>();
  const DictRef* dict = value.get<DictRef>();
  const bool fits = indent + allowance + count_code_points(flat) <= kWidth;
  if (fits || (!list && !dict) || (list && (*list)->is_view())) {
    out += flat;
    return {};
  }
  const std::string separator = ",\n" + std::string(indent + 1, ' ');
  if (dict) {
    const std::vector<Dict::Entry> entries = sorted_entries(**dict);
    out += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out += separator;
      std::string key;
      TRY_DO(append_repr(meter, entries[i].first, key));
      out += key + ": ";
      const size_t inner = indent + 3 + count_code_points(key);
      TRY_DO(
          append_pretty(meter, entries[i].second, inner, i + 1 == entries.size() ? allowance + 1 : 1, out));
    }
    out += '}';
    return {};
  }
  const auto& items = (*list)->items;
  out += (*list)->is_list() ? '[' : '(';
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    TRY_DO(append_pretty(meter, items[i], indent + 1, i + 1 == items.size() ? allowance + 1 : 1, out));
  }
  if (!(*list)->is_list() && items.size() == 1) out += ',';
  out += (*list)->is_list() ? ']' : ')';
  return {};
}

}  // namespace

Result<std::string> pretty_text(Meter& meter, const Value& value) {
  std::string out;
  TRY_DO(append_pretty(meter, value, 0, 0, out));
  return out;
}

}  // namespace baton::text::jinja
