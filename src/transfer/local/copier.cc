#include "transfer/local/copier.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/check.h"

namespace baton::transfer::local {

void Copier::drop_transfer(TransferId transfer) {
  std::erase_if(jobs_, [&](const CopyJob& job) { return job.announce.transfer == transfer; });
}
void Copier::drop_peer(PeerId peer) {
  std::erase_if(jobs_, [&](const CopyJob& job) { return job.peer == peer; });
}

std::optional<CopyEnd> Copier::step(const Grants& grants) {
  if (jobs_.empty()) return std::nullopt;
  CopyJob job = std::move(jobs_.front());
  jobs_.pop_front();
  const auto grant = grants.find(job.announce.transfer);
  CHECK(grant != grants.end(), "a copy without a grant");
  CopyEnd end{.peer = job.peer,
              .transfer = job.announce.transfer,
              .last = job.announce.last,
              .bytes = job.next.move().bytes(target_.layout(), job.announce.layers.count),
              .error = {}};
  if (job.next.positions_done() == 0 && job.offset == 0) {
    end.error = find_foreign(job, grant->second);
    if (end.error) return end;
  }
  copy_slice(job, grant->second);
  if (!job.next.is_done()) {
    jobs_.push_back(std::move(job));
    return std::nullopt;
  }
  // The reader's half of the seqlock (Boehm 2012, section 4): what was copied is not reordered behind this.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  end.error = find_foreign(job, grant->second);
  return end;
}

std::optional<Error> Copier::find_foreign(const CopyJob& job, const Grant& grant) const {
  for (size_t i = 0; i < job.announce.source.size(); ++i) {
    const BlockId block = job.announce.source[i];
    const uint32_t epoch = job.source->epoch(block);
    if (epoch != job.announce.epochs[i]) {
      return Error{Code::kUnavailable,
                   fmt::format("source block {}: epoch is {}, expected {}: P has given it away", index(block),
                               epoch, job.announce.epochs[i])};
    }
  }
  if (auto owned = check_owner(grant, target_); !owned) return owned.error();
  return std::nullopt;
}

// Blocks from the next piece on, at most `blocks_max`, that are neighbours on both sides; 1 where pieces are
// not whole blocks on both.
size_t Copier::count_neighbours(const CopyJob& job, const Grant& grant, size_t blocks_max) const {
  const kv::Move& move = job.next.move();
  if (move.source_tokens != move.target_tokens || job.announce.layers.count != target_.layout().layers)
    return 1;
  const std::span from = std::span(job.announce.source).subspan(job.next->source);
  const std::span to =
      std::span(grant.blocks).subspan(target_block_of(grant, job.announce) + job.next->target);
  size_t run = 1;
  while (run < std::min(from.size(), blocks_max) && index(from[run]) == index(from[0]) + run &&
         index(to[run]) == index(to[0]) + run) {
    ++run;
  }
  return run;
}

void Copier::copy_slice(CopyJob& job, const Grant& grant) {
  const kv::KvLayout& layout = target_.layout();
  size_t budget = kSliceBytes;
  while (budget > 0 && !job.next.is_done()) {
    const kv::Piece& piece = *job.next;
    const size_t first = job.announce.layers.first * layout.layer_bytes(piece.tokens);
    const size_t range = job.announce.layers.count * layout.layer_bytes(piece.tokens);
    const BlockId from = job.announce.source[piece.source];
    const BlockId to = grant.blocks[target_block_of(grant, job.announce) + piece.target];
    const size_t run = count_neighbours(job, grant, (job.offset + budget + range - 1) / range);
    const size_t bytes = std::min(budget, run * range - job.offset);
    if (run > 1) {
      std::memcpy(target_.data() + layout.offset(0, to) + job.offset,
                  job.source->data() + layout.offset(0, from) + job.offset, bytes);
    } else {
      kv::copy_part(target_, {to, piece.target_token, piece.tokens}, *job.source,
                    {from, piece.source_token, piece.tokens}, first + job.offset, bytes);
    }
    budget -= bytes;
    for (job.offset += bytes; job.offset >= range; job.offset -= range) job.next.next();
  }
}

}  // namespace baton::transfer::local
