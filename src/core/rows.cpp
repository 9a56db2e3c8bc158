#include "rows.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace onstream {
namespace {

constexpr uint32_t kFirstBits = 9;  // one small page
constexpr size_t kChunkBytes = size_t{128} << 10;

// The most rows, as a power of two, that fit one chunk; at least 16, so that wide rows work too.
uint32_t chunk_bits(uint32_t stride) {
    uint32_t bits = 4;
    while ((size_t{stride} << (bits + 1)) <= kChunkBytes) bits += 1;
    return bits;
}

}  // namespace

Memory::Memory(uint32_t floats)
    : stride((sizeof(Row) + 4 * floats + 7) / 8 * 8),
      chunk_bits(onstream::chunk_bits(stride)),
      chunks(size_t{stride} << chunk_bits),
      indexes(kPartitions, chunks) {}

Partition::Partition(uint32_t number, Memory& memory)
    : number_(number),
      stride_(memory.stride),
      chunk_bits_(memory.chunk_bits),
      chunk_mask_((1u << chunk_bits_) - 1),
      bits_(kFirstBits),
      memory_(&memory),
      index_(memory.indexes.part(number, sizeof(uint64_t) << kFirstBits)) {}

size_t Partition::size_bytes() const {
    return (sizeof(uint64_t) << bits_) + chunks_.size() * memory_->chunks.block_bytes() +
           chunks_.capacity() * sizeof(std::byte*) + free_.capacity() * sizeof(uint32_t) +
           (touched_.capacity() + held_.capacity() + deleted_.capacity()) * sizeof(uint64_t);
}

uint32_t Partition::guess(uint64_t spread_key) const {
    const uint32_t tag = tag_of(spread_key);
    const uint32_t mask = (1u << bits_) - 1;
    for (uint32_t at = home(tag);; at = (at + 1) & mask) {
        const uint64_t slot = slots()[at];
        if (slot == 0) return kNone;
        if (static_cast<uint32_t>(slot >> 32) == tag) return static_cast<uint32_t>(slot) - 1;
    }
}

uint32_t Partition::find(uint64_t key, uint64_t spread_key) const {
    const uint32_t tag = tag_of(spread_key);
    const uint32_t mask = (1u << bits_) - 1;
    for (uint32_t at = home(tag);; at = (at + 1) & mask) {
        const uint64_t slot = slots()[at];
        if (slot == 0) return kNone;
        if (static_cast<uint32_t>(slot >> 32) != tag) continue;
        const uint32_t id = static_cast<uint32_t>(slot) - 1;
        if (row(id)->key == key) return id;
    }
}

void Partition::insert_slot(uint32_t tag, uint32_t id) {
    const uint32_t mask = (1u << bits_) - 1;
    uint32_t at = home(tag);
    while (slots()[at] != 0) at = (at + 1) & mask;
    slots()[at] = (uint64_t{tag} << 32) | (id + 1);
}

void Partition::grow() {
    const uint32_t before = 1u << bits_;
    // The larger index first: if there is no memory for it, nothing has changed.
    std::shared_ptr<std::byte> old = memory_->indexes.part(number_, sizeof(uint64_t) << (bits_ + 1));
    std::swap(old, index_);
    bits_ += 1;
    const auto* slots = reinterpret_cast<const uint64_t*>(old.get());
    for (uint32_t at = 0; at < before; ++at) {
        if (slots[at] != 0) {
            insert_slot(static_cast<uint32_t>(slots[at] >> 32), static_cast<uint32_t>(slots[at]) - 1);
        }
    }
}

uint32_t Partition::new_id() {
    if (!free_.empty()) {
        const uint32_t id = free_.back();
        free_.pop_back();
        return id;
    }
    // Room in every list before anything is taken.
    if ((ids_ & 63) == 0) {
        touched_.resize(ids_ / 64 + 1);
        held_.resize(ids_ / 64 + 1);
    }
    if ((ids_ & chunk_mask_) == 0) {
        chunks_.reserve(chunks_.size() + 1);
        chunks_.push_back(memory_->chunks.block());
    }
    return ids_++;
}

uint32_t Partition::create(uint64_t key, uint64_t spread_key, uint32_t now) {
    // Three quarters full at most: short probes, and at most 21 bytes of index a row just after growing.
    if (uint64_t{size_ + 1} * 4 > (uint64_t{3} << bits_)) grow();
    const uint32_t id = new_id();
    insert_slot(tag_of(spread_key), id);
    size_ += 1;
    Row* made = row(id);
    made->key = key;
    made->seen = now;
    made->count = 0;
    touch(id);
    return id;
}

void Partition::erase(uint32_t id, uint64_t spread_key) {
    const uint32_t mask = (1u << bits_) - 1;
    uint32_t at = home(tag_of(spread_key));
    while (static_cast<uint32_t>(slots()[at]) != id + 1) at = (at + 1) & mask;
    // Knuth, TAOCP 3, 6.4, algorithm R: later entries of the run move up, so no tombstones are left.
    for (uint32_t next = (at + 1) & mask; slots()[next] != 0; next = (next + 1) & mask) {
        const uint32_t start = home(static_cast<uint32_t>(slots()[next] >> 32));
        if (((next - start) & mask) >= ((next - at) & mask)) {
            slots()[at] = slots()[next];
            at = next;
        }
    }
    slots()[at] = 0;
    size_ -= 1;
    const uint64_t bit = uint64_t{1} << (id & 63);
    if (held_[id >> 6] & bit) deleted_.push_back(row(id)->key);
    row(id)->key = kNoRow;
    touched_[id >> 6] &= ~bit;
    held_[id >> 6] &= ~bit;
    free_.push_back(id);
}

uint32_t Partition::sweep(uint32_t now, uint32_t ttl, uint64_t budget) {
    if (ttl == 0 || ids_ == 0) return 0;
    uint32_t erased = 0;
    budget = std::min<uint64_t>(budget, ids_);
    for (uint64_t i = 0; i < budget; ++i) {
        if (cursor_ >= ids_) cursor_ = 0;
        const auto id = static_cast<uint32_t>(cursor_++);
        if (row(id)->key != kNoRow && row(id)->expired(now, ttl)) {
            erase(id, spread(row(id)->key));
            erased += 1;
        }
    }
    return erased;
}

std::vector<uint64_t> Partition::deleted() const {
    // Each key is there once: a row that came back is not held, so a second deletion is not told.
    std::vector<uint64_t> gone;
    for (const uint64_t key : deleted_) {
        if (find(key, spread(key)) == kNone) gone.push_back(key);
    }
    return gone;
}

std::vector<uint32_t> Partition::touched() const {
    size_t n = 0;
    for (const uint64_t word : touched_) n += static_cast<size_t>(std::popcount(word));
    std::vector<uint32_t> ids;
    ids.reserve(n);
    for (size_t at = 0; at < touched_.size(); ++at) {
        for (uint64_t word = touched_[at]; word != 0; word &= word - 1) {
            ids.push_back(static_cast<uint32_t>(at * 64 + static_cast<size_t>(std::countr_zero(word))));
        }
    }
    return ids;
}

std::vector<uint32_t> Partition::all() const {
    std::vector<uint32_t> ids;
    ids.reserve(size_);
    for (uint32_t id = 0; id < ids_; ++id) {
        if (row(id)->key != kNoRow) ids.push_back(id);
    }
    return ids;
}

void Partition::cut_done() {
    for (size_t at = 0; at < touched_.size(); ++at) {
        held_[at] |= touched_[at];
        touched_[at] = 0;
    }
    deleted_.clear();
}

}  // namespace onstream
