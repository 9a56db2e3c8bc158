#include "plan.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "threads.h"

namespace onstream {
namespace {

constexpr size_t kFewKeys = 4096;

std::atomic<uint64_t> plans{0};

// Without a branch: compilers make one of `?:` where they please. `condition` is 0 or 1.
inline uint32_t pick(uint32_t condition, uint32_t yes, uint32_t no) {
    uint32_t mask = 0 - condition;
#ifdef __GNUC__
    __asm__("" : "+r"(mask));
#endif
    return (yes & mask) | (no & ~mask);
}

}  // namespace

// What plans that are gone have left. Nobody waits for it: a plan can do without, and in a forked child the
// lock may have no owner who would open it.
class Plan::Spare {
  public:
    Arrays take() {
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (!lock.owns_lock() || arrays_.empty()) return {};
        Arrays last = std::move(arrays_.back());
        arrays_.pop_back();
        return last;
    }

    void give(Arrays&& arrays) {
        if (arrays.keys.capacity() > kMostKeys) return;
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (lock.owns_lock() && arrays_.size() < kMost) arrays_.push_back(std::move(arrays));
    }

    // Never destroyed: plans may outlive whatever belongs to this file.
    static Spare& of_process() {
        static auto* spare = new Spare;
        return *spare;
    }

  private:
    // As many as come and go at once where a stream is read ahead; together they keep some 150 MB at most.
    static constexpr size_t kMost = 4;
    static constexpr size_t kMostKeys = size_t{1} << 20;

    Spare() { arrays_.reserve(kMost); }

    std::mutex mutex_;
    std::vector<Arrays> arrays_;
};

Plan::Plan(const uint64_t* keys, size_t n, int threads) {
    if (n >= kFewKeys) arrays_ = Spare::of_process().take();
    make(keys, n, threads);
}

Plan::~Plan() {
    if (size_ >= kFewKeys) Spare::of_process().give(std::move(arrays_));
}

int threads_for(size_t n, int threads) { return n < kFewKeys ? 1 : threads; }

void Plan::make(const uint64_t* keys, size_t n, int threads) {
    size_ = n;
    serial_ = ++plans;
    for (Buffer<uint32_t>* buffer :
         {&arrays_.by_position, &arrays_.positions, &arrays_.places, &arrays_.firsts, &arrays_.counts})
        buffer->grow_to(n);
    for (Buffer<uint64_t>* buffer : {&arrays_.keys, &arrays_.spreads}) buffer->grow_to(n);
    threads = threads_for(n, threads);
    group(keys, threads);
    for_each_item(threads, kPartitions, [&](size_t p) { find_distinct(static_cast<uint32_t>(p)); });
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
                arrays_.by_position[i] = kNone;
            } else {
                const uint32_t slot = next[partition_of(spread(keys[i]))]++;
                arrays_.positions[slot] = static_cast<uint32_t>(i);
                arrays_.keys[slot] = keys[i];
            }
        }
    });
}

// `spread` is a bijection, so equal spread keys are equal keys. Whether a key was met before is as good as
// random, so nothing branches on it: what is stored for a first one is stored for a repeated one too, where
// the next overwrites it.
void Plan::find_distinct(uint32_t p) {
    const uint32_t begin = bounds_[p];
    const uint32_t end = bounds_[p + 1];
    uint32_t bits = 4;
    while (2 * (size_t{1} << bits) < size_t{3} * (end - begin)) bits += 1;
    // A hash set of places, each plus 1; 0 is empty.
    std::vector<uint32_t> set(size_t{1} << bits, 0);
    const uint32_t mask = (1u << bits) - 1;
    uint32_t* const met = set.data();
    uint64_t* const keys = arrays_.keys.data();
    uint64_t* const spreads = arrays_.spreads.data();
    uint32_t* const positions = arrays_.positions.data();
    uint32_t* const places = arrays_.places.data();
    uint32_t* const firsts = arrays_.firsts.data();
    uint32_t* const counts = arrays_.counts.data();
    uint32_t* const by_position = arrays_.by_position.data();
    uint32_t next = begin;
    uint32_t repeat = begin;
    for (uint32_t slot = begin; slot < end; ++slot) {
        const uint32_t position = positions[slot];
        const uint64_t key = keys[slot];
        const uint64_t spread_key = spread(key);
        // Behind what is read: of the slots before this one, `next` and `repeat` have each counted a part.
        keys[next] = key;
        spreads[next] = spread_key;
        firsts[next] = position;
        counts[next] = 0;
        // The partition took the lowest bits; the index of the table will take the highest.
        uint32_t at = static_cast<uint32_t>(spread_key >> 8) & mask;
        uint32_t is_first, place;
        for (;; at = (at + 1) & mask) {
            is_first = met[at] == 0;
            place = pick(is_first, next, met[at] - 1);
            if (spreads[place] == spread_key) break;
        }
        met[at] = place + 1;
        counts[place] += 1;
        by_position[position] = place;
        positions[repeat] = position;
        places[repeat] = place;
        next += is_first;
        repeat += 1 - is_first;
    }
    num_distinct_[p] = next - begin;
}

}  // namespace onstream
