// What the keys of a batch tell before any row is looked at: where each partition's are, and which are the
// same.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory.h"
#include "rows.h"

namespace onstream {

// Threads worth waking for `n` keys: below a few thousand one is faster.
int threads_for(size_t n, int threads);

// Depends on the keys alone, so it can be made while the batch before is learned from.
class Plan {
  public:
    static constexpr uint32_t kNone = Partition::kNone;

    Plan() = default;
    Plan(const uint64_t* keys, size_t n, int threads);
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;
    // Leaves its memory to plans that come later: there is one for each batch, and new pages cost time.
    ~Plan();

    // Begins anew with other keys, in the same memory.
    void make(const uint64_t* keys, size_t n, int threads);

    size_t size() const { return size_; }
    // Tells plans apart, those of the same keys as well.
    uint64_t serial() const { return serial_; }

    // Each different key has a place. Those of partition p begin at begin(p), in order of occurrence.
    uint32_t begin(uint32_t p) const { return bounds_[p]; }
    uint32_t num_keys(uint32_t p) const { return bounds_[p + 1] - bounds_[p]; }  // with repetitions
    uint32_t num_distinct(uint32_t p) const { return num_distinct_[p]; }
    const uint64_t* keys() const { return arrays_.keys.data(); }        // by place
    const uint64_t* spreads() const { return arrays_.spreads.data(); }  // by place: spread(key)
    const uint32_t* counts() const { return arrays_.counts.data(); }    // by place: occurrences
    const uint32_t* firsts() const { return arrays_.firsts.data(); }    // by place: position of the first one

    // Occurrences after the first, in the order of the batch: those of partition p begin at begin(p).
    uint32_t num_repeats(uint32_t p) const { return num_keys(p) - num_distinct(p); }
    const uint32_t* repeats() const { return arrays_.positions.data(); }     // position
    const uint32_t* repeat_places() const { return arrays_.places.data(); }  // and place

    // The place, or kNone for key 0.
    const uint32_t* by_position() const { return arrays_.by_position.data(); }

  private:
    void group(const uint64_t* keys, int threads);
    void find_distinct(uint32_t p);

    struct Arrays {
        Buffer<uint32_t> by_position, positions, places, firsts, counts;
        Buffer<uint64_t> keys, spreads;
    };
    class Spare;

    size_t size_ = 0;
    uint64_t serial_ = 0;
    uint32_t bounds_[kPartitions + 1] = {};
    uint32_t num_distinct_[kPartitions] = {};
    Arrays arrays_;
};

}  // namespace onstream
