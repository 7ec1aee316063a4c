#include "text/bpe/vocabulary.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bit>

#include "base/check.h"

namespace baton::text::bpe {

namespace {

uint64_t hash_of(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace

void Vocabulary::reserve(size_t tokens, size_t bytes) {
  tokens_.reserve(tokens);
  blob_.reserve(bytes);
  CHECK(spelled_ == 0);
  slots_.assign(std::bit_ceil(tokens * 2 + 1), Slot{});
}

void Vocabulary::place(TokenId id, std::string_view bytes) {
  CHECK(id >= 0 && id <= kTokenIdMax && !has(id), "id {}", id);
  if (index(id) >= tokens_.size()) tokens_.resize(index(id) + 1);
  Token& token = tokens_[index(id)];
  token.begin = static_cast<uint32_t>(blob_.size());
  token.length = static_cast<uint32_t>(bytes.size()) & 0x7FFFFFFF;
  token.taken = 1;
  blob_ += bytes;
}

void Vocabulary::add_raw(TokenId id, std::string_view bytes) { place(id, bytes); }

bool Vocabulary::add_spelled(TokenId id, std::string_view bytes) {
  if ((spelled_ + 1) * 2 > slots_.size()) grow();
  Slot* slot = slot_of(bytes);
  if (slot->id != kNoToken) return false;
  place(id, bytes);
  *slot = {static_cast<uint32_t>(hash_of(bytes) >> 32), id};
  ++spelled_;
  if (bytes.size() == 1) of_byte_[static_cast<uint8_t>(bytes[0])] = id;
  return true;
}

// The slot that holds `bytes`, or the free one where they belong.
Vocabulary::Slot* Vocabulary::slot_of(std::string_view text) {
  const uint64_t hash = hash_of(text);
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t at = hash & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1)) {
    Slot& slot = slots_[at];
    if (slot.id == kNoToken || (slot.tag == tag && bytes(slot.id) == text)) return &slot;
  }
}

TokenId Vocabulary::find(std::string_view text) const {
  const uint64_t hash = hash_of(text);
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t at = hash & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1)) {
    const Slot& slot = slots_[at];
    if (slot.id == kNoToken || (slot.tag == tag && bytes(slot.id) == text)) return slot.id;
  }
}

void Vocabulary::grow() {
  const std::vector<Slot> old = std::move(slots_);
  slots_.assign(old.size() * 2, Slot{});
  for (const Slot& slot : old) {
    if (slot.id != kNoToken) *slot_of(bytes(slot.id)) = slot;
  }
}

}  // namespace baton::text::bpe
