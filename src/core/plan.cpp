#include "plan.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "threads.h"

namespace onstream {
namespace {

constexpr size_t kFewKeys = 4096;

std::atomic<uint64_t> plans{0};

}  // namespace

int threads_for(size_t n, int threads) { return n < kFewKeys ? 1 : threads; }

void Plan::make(const uint64_t* keys, size_t n, int threads) {
    size_ = n;
    serial_ = ++plans;
    for (Buffer<uint32_t>* buffer : {&by_position_, &positions_, &places_, &firsts_, &counts_})
        buffer->grow_to(n);
    for (Buffer<uint64_t>* buffer : {&keys_, &spreads_}) buffer->grow_to(n);
    threads = threads_for(n, threads);
    group(keys, threads);
    for_each_item(threads, kPartitions, [&](size_t p) { find_distinct(keys, static_cast<uint32_t>(p)); });
}

// A stable counting sort of the positions by partition. Each thread takes a range of positions, so all writes
// of a thread go to its own cache lines.
void Plan::group(const uint64_t* keys, int threads) {
    const size_t ranges = static_cast<size_t>(threads);
    std::vector<uint32_t> starts(ranges * kPartitions);
    for_each_item(threads, ranges, [&](size_t r) {
        uint32_t counts[kPartitions] = {};
        const size_t end = size_ * (r + 1) / ranges;
        for (size_t i = size_ * r / ranges; i < end; ++i) {
            if (keys[i] != kNoRow) counts[partition_of(spread(keys[i]))] += 1;
        }
        std::copy(counts, counts + kPartitions, &starts[r * kPartitions]);
    });
    uint32_t at = 0;
    for (uint32_t p = 0; p < kPartitions; ++p) {
        bounds_[p] = at;
        for (size_t r = 0; r < ranges; ++r) {
            const uint32_t count = starts[r * kPartitions + p];
            starts[r * kPartitions + p] = at;
            at += count;
        }
    }
    bounds_[kPartitions] = at;
    for_each_item(threads, ranges, [&](size_t r) {
        uint32_t next[kPartitions];
        std::copy(&starts[r * kPartitions], &starts[r * kPartitions] + kPartitions, next);
        const size_t end = size_ * (r + 1) / ranges;
        for (size_t i = size_ * r / ranges; i < end; ++i) {
            if (keys[i] == kNoRow) {
                by_position_[i] = kNone;
            } else {
                positions_[next[partition_of(spread(keys[i]))]++] = static_cast<uint32_t>(i);
            }
        }
    });
}

// `spread` is a bijection, so equal spread keys are equal keys.
void Plan::find_distinct(const uint64_t* keys, uint32_t p) {
    const uint32_t begin = bounds_[p];
    const uint32_t end = bounds_[p + 1];
    uint32_t bits = 4;
    while ((size_t{1} << bits) < size_t{2} * (end - begin)) bits += 1;
    // A hash set of places, each plus 1; 0 is empty.
    std::vector<uint32_t> met(size_t{1} << bits, 0);
    const uint32_t mask = (1u << bits) - 1;
    uint32_t next = begin;
    uint32_t repeat = begin;
    for (uint32_t slot = begin; slot < end; ++slot) {
        const uint32_t position = positions_[slot];
        const uint64_t spread_key = spread(keys[position]);
        // The partition took the lowest bits; the index of the table will take the highest.
        uint32_t at = static_cast<uint32_t>(spread_key >> 8) & mask;
        while (met[at] != 0 && spreads_[met[at] - 1] != spread_key) at = (at + 1) & mask;
        if (met[at] == 0) {
            keys_[next] = keys[position];
            spreads_[next] = spread_key;
            firsts_[next] = position;
            counts_[next] = 1;
            by_position_[position] = next;
            met[at] = ++next;
            continue;
        }
        const uint32_t place = met[at] - 1;
        counts_[place] += 1;
        by_position_[position] = place;
        // Behind what is read: of the slots before this one, one at least was a first.
        positions_[repeat] = position;
        places_[repeat++] = place;
    }
    num_distinct_[p] = next - begin;
}

}  // namespace onstream
