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
  const size_t range_bytes = job.announce.layers.count * target_.layout().layer_bytes();
  CopyEnd end{.peer = job.peer,
              .transfer = job.announce.transfer,
              .last = job.announce.last,
              .bytes = range_bytes * job.announce.source.size(),
              .error = {}};
  if (job.position == 0 && job.block_bytes_done == 0) {
    end.error = find_foreign(job, grant->second);
    if (end.error) return end;
  }
  copy_slice(job, grant->second);
  if (job.position < job.announce.source.size()) {
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

// Neighbouring blocks that are neighbours on both sides are one copy.
void Copier::copy_slice(CopyJob& job, const Grant& grant) {
  const kv::KvLayout& layout = target_.layout();
  const size_t first = job.announce.layers.first * layout.layer_bytes();
  const size_t range = job.announce.layers.count * layout.layer_bytes();
  size_t budget = kSliceBytes;
  while (budget > 0 && job.position < job.announce.source.size()) {
    const BlockId from = job.announce.source[job.position];
    const BlockId to = grant.blocks[job.position];
    size_t run = 1;
    if (range == layout.block_bytes()) {
      while (job.position + run < job.announce.source.size() && run * range < job.block_bytes_done + budget &&
             index(job.announce.source[job.position + run]) == index(from) + run &&
             index(grant.blocks[job.position + run]) == index(to) + run) {
        ++run;
      }
    }
    const size_t bytes = std::min(budget, run * range - job.block_bytes_done);
    std::memcpy(target_.data() + layout.offset(0, to) + first + job.block_bytes_done,
                job.source->data() + layout.offset(0, from) + first + job.block_bytes_done, bytes);
    budget -= bytes;
    const size_t done = job.block_bytes_done + bytes;
    job.position += done / range;
    job.block_bytes_done = done % range;
  }
}

}  // namespace baton::transfer::local
