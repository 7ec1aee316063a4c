#include "tests/simulation/chaos_wire.h"

#include <algorithm>
#include <iterator>

namespace baton::simulation::chaos {

void Wire::push(Way& way, Piece piece, Time now) {
  if (way.is_closed) return;
  const auto late = Duration(static_cast<int64_t>(random_() % static_cast<uint64_t>(delay_max_.count() + 1)));
  way.last = std::max(way.last, now + late);
  way.pieces.emplace_back(way.last, std::move(piece));
}

uint64_t Wire::open(size_t proxy, size_t instance, std::string request_id, Piece first, Time now) {
  const uint64_t id = next_++;
  Open& open = calls_[id];
  open.call = {id, proxy, instance, std::move(request_id)};
  push(way(open, End::kInstance), std::move(first), now);
  return id;
}

void Wire::send(uint64_t call, End to, Piece piece, Time now) {
  if (const auto at = calls_.find(call); at != calls_.end()) push(way(at->second, to), std::move(piece), now);
}

void Wire::leave(uint64_t call, End from, Time now) {
  const auto at = calls_.find(call);
  if (at == calls_.end()) return;
  Way& own = way(at->second, from);
  if (own.is_closed) return;
  own.is_closed = true;
  own.pieces.clear();
  const End other = from == End::kProxy ? End::kInstance : End::kProxy;
  push(way(at->second, other), {.kind = Piece::Kind::kBroken, .bytes = "the peer closed the connection"},
       now);
}

void Wire::leave_all(size_t process, End from, Time now) {
  for (auto& [id, open] : calls_) {
    if ((from == End::kProxy ? open.call.proxy : open.call.instance) == process) leave(id, from, now);
  }
}

bool Wire::break_any(Time now) {
  if (calls_.empty()) return false;
  const auto at = std::next(calls_.begin(), static_cast<ptrdiff_t>(random_() % calls_.size()));
  for (const End end : {End::kProxy, End::kInstance}) {
    Way& one = way(at->second, end);
    one.pieces.clear();
    push(one, {.kind = Piece::Kind::kBroken, .bytes = "connection reset"}, now);
  }
  return true;
}

void Wire::deliver(Time now, const MayPass& may_pass, const Take& take) {
  for (auto at = calls_.begin(); at != calls_.end();) {
    Open& open = at->second;
    for (const End end : {End::kInstance, End::kProxy}) {
      Way& one = way(open, end);
      while (!one.pieces.empty() && one.pieces.front().first <= now && may_pass(open.call, end)) {
        Piece piece = std::move(one.pieces.front().second);
        one.pieces.pop_front();
        if (piece.kind == Piece::Kind::kBroken) one.is_closed = true;
        take(open.call, end, std::move(piece));
      }
    }
    const bool is_over = open.ways[0].is_closed && open.ways[1].is_closed;
    at = is_over ? calls_.erase(at) : std::next(at);
  }
}

Time Wire::next_due(const MayPass& may_pass) const {
  Time next = kNever;
  for (const auto& [id, open] : calls_) {
    for (const End end : {End::kInstance, End::kProxy}) {
      const Way& one = open.ways[static_cast<size_t>(end)];
      if (!one.pieces.empty() && may_pass(open.call, end)) next = std::min(next, one.pieces.front().first);
    }
  }
  return next;
}

}  // namespace baton::simulation::chaos
