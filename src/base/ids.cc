#include "base/ids.h"

#include <sys/random.h>

#include "base/check.h"

namespace baton {
namespace {

template <class Id>
Id draw() {
  Id id;
  CHECK(getrandom(id.bytes.data(), id.bytes.size(), 0) == static_cast<ssize_t>(id.bytes.size()));
  return id;
}

}  // namespace

template <>
Incarnation random_id<Incarnation>() {
  return draw<Incarnation>();
}
template <>
TransferId random_id<TransferId>() {
  return draw<TransferId>();
}
template <>
HandoverId random_id<HandoverId>() {
  return draw<HandoverId>();
}

}  // namespace baton
