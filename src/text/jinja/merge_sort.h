// A stable sort that stays within its memory whatever the comparison answers (NaN has no place in any order).
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace baton::text::jinja {

template <class T, class Less>
void merge_sort(std::vector<T>& items, const Less& less) {
  std::vector<T> merged(items.size());
  for (size_t width = 1; width < items.size(); width *= 2) {
    for (size_t begin = 0; begin < items.size(); begin += 2 * width) {
      const auto first = items.begin() + static_cast<ptrdiff_t>(begin);
      const auto middle = items.begin() + static_cast<ptrdiff_t>(std::min(begin + width, items.size()));
      const auto last = items.begin() + static_cast<ptrdiff_t>(std::min(begin + 2 * width, items.size()));
      std::merge(first, middle, middle, last, merged.begin() + static_cast<ptrdiff_t>(begin), less);
    }
    items.swap(merged);
  }
}

}  // namespace baton::text::jinja
