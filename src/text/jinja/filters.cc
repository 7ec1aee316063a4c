#include "text/jinja/filters.h"

#include <algorithm>
#include <vector>

#include "text/jinja/filter_tables.h"

namespace baton::text::jinja {
namespace {

std::vector<Filter> sorted_filters() {
  std::vector<Filter> all;
  for (const auto table : {text_filters(), list_filters(), select_filters()}) {
    all.insert(all.end(), table.begin(), table.end());
  }
  std::ranges::sort(all, {}, &Filter::name);
  return all;
}

}  // namespace

const Filter* find_filter(std::string_view name) {
  static const std::vector<Filter> filters = sorted_filters();
  const auto at = std::ranges::lower_bound(filters, name, {}, &Filter::name);
  return at != filters.end() && at->name == name ? &*at : nullptr;
}

}  // namespace baton::text::jinja
