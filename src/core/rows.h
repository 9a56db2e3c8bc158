// Rows by key: a hash index over rows that never move, split into partitions that never share anything.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "hash.h"
#include "memory.h"

namespace onstream {

constexpr uint32_t kPartitions = 16;

// The partition of a key and its place in an index come from different bits of one mixed word.
inline uint64_t spread(uint64_t key) { return mix(key ^ 0x6f6e73747265616dULL); }
inline uint32_t partition_of(uint64_t spread_key) { return spread_key & (kPartitions - 1); }

// Asks for every cache line of `bytes` bytes, of the last as well: they may begin anywhere in the first.
template <int kWrite>
inline void prefetch_bytes(const void* from, uint32_t bytes) {
    const auto* at = static_cast<const char*>(from);
    for (uint32_t b = 0; b < bytes; b += 64) __builtin_prefetch(at + b, kWrite);
    // As a number: of no bytes there is no last one to point to.
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(at) + bytes - 1), kWrite);
}

// A row as it lies in memory. Its floats follow: weights, then the optimizer's state.
struct Row {
    uint64_t key;    // 0: the row is free
    uint32_t seen;   // event time of the last sight, seconds
    uint32_t count;  // sights

    float* floats() { return reinterpret_cast<float*>(this + 1); }
    void add_sights(uint32_t n) { count = count + n < count ? ~uint32_t{0} : count + n; }
    bool expired(uint32_t now, uint32_t ttl) const { return ttl != 0 && now > seen && now - seen > ttl; }
};
static_assert(sizeof(Row) == 16);

// Where the rows of all partitions of a table lie, and their indexes.
struct Memory {
    explicit Memory(uint32_t floats);

    const uint32_t stride;  // bytes from one row to the next
    const uint32_t chunk_bits;
    Arena chunks;
    Siblings indexes;
};

// The rows of one partition.
class Partition {
  public:
    static constexpr uint32_t kNone = 0xffffffffu;

    Partition(uint32_t number, Memory& memory);

    uint32_t size() const { return size_; }
    size_t size_bytes() const;

    Row* row(uint32_t id) const {
        return reinterpret_cast<Row*>(chunks_[id >> chunk_bits_] + size_t{id & chunk_mask_} * stride_);
    }

    // The steps of one look-up, apart so that a caller can overlap the memory latency of many.
    void prefetch_slot(uint64_t spread_key) const { __builtin_prefetch(&slots()[home(tag_of(spread_key))]); }
    uint32_t guess(uint64_t spread_key) const;  // the row whose tag fits, or kNone: there is no row
    void prefetch_row(uint32_t id) const { prefetch_bytes<1>(row(id), stride_); }
    void prefetch_weights(uint32_t id, uint32_t dim) const {
        prefetch_bytes<0>(row(id), sizeof(Row) + 4 * dim);
    }

    uint32_t find(uint64_t key, uint64_t spread_key) const;
    // A new row with count 0, its floats unset. The key must not be present.
    uint32_t create(uint64_t key, uint64_t spread_key, uint32_t now);
    void erase(uint32_t id, uint64_t spread_key);
    void touch(uint32_t id) { touched_[id >> 6] |= uint64_t{1} << (id & 63); }

    // Looks at `budget` rows, going round, and erases the expired ones. Returns how many it erased.
    uint32_t sweep(uint32_t now, uint32_t ttl, uint64_t budget);

    // What changed since the last cut; cut_done forgets it.
    std::vector<uint32_t> touched() const;
    std::vector<uint32_t> all() const;
    std::vector<uint64_t> deleted() const;
    void cut_done();

  private:
    // A slot of the index: the upper half is the tag, the lower half the row's number plus 1; 0 is empty.
    // Rows sit in the order of their tags (linear probing from a home that the tag gives), so growing the
    // index is one pass through it that touches no row.
    static uint32_t tag_of(uint64_t spread_key) { return static_cast<uint32_t>(spread_key >> 32); }
    uint32_t home(uint32_t tag) const { return static_cast<uint32_t>(uint64_t{tag} << bits_ >> 32); }
    uint64_t* slots() const { return reinterpret_cast<uint64_t*>(index_.get()); }
    void insert_slot(uint32_t tag, uint32_t id);
    void grow();
    uint32_t new_id();

    uint32_t number_;
    uint32_t stride_;
    uint32_t chunk_bits_;
    uint32_t chunk_mask_;
    uint32_t bits_;
    uint32_t size_ = 0;
    uint32_t ids_ = 0;  // rows ever laid out
    uint64_t cursor_ = 0;
    Memory* memory_;
    std::shared_ptr<std::byte> index_;
    std::vector<std::byte*> chunks_;
    std::vector<uint32_t> free_;
    std::vector<uint64_t> touched_;  // one bit a row: changed since the last cut
    std::vector<uint64_t> held_;     // one bit a row: a cut has told of it, so its deletion must be told too
    std::vector<uint64_t> deleted_;
};

}  // namespace onstream
