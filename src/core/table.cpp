#include "table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "threads.h"

namespace onstream {
namespace {

constexpr uint32_t kNone = Partition::kNone;

// Look-ups under way at once: enough to cover a memory latency, few enough for the line fill buffers.
constexpr size_t kAhead = 16;

constexpr uint32_t kSketchDepth = 4;
constexpr uint32_t kMostCount = 255;

// Rows looked at for expiry for each key of a learning pull: more than can be created, so memory is bounded.
constexpr uint64_t kSweptPerKey = 2;

double unit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

// The normal deviate below which a share `p` of all lie: Wichura 1988, algorithm AS 241, PPND7 (7 digits).
double normal_quantile(double p) {
    const double q = p - 0.5;
    if (std::abs(q) <= 0.425) {
        const double r = 0.180625 - q * q;
        return q * (((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179) /
               (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0);
    }
    // `p` is a multiple of 2^-53 and may be 0, whose logarithm is not finite.
    const double tail = std::max(q < 0 ? p : 1 - p, 0x1p-54);
    double r = std::sqrt(-std::log(tail));
    double value;
    if (r <= 5) {
        r -= 1.6;
        value = (((0.17023821103 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777) /
                ((0.12021132975 * r + 0.73700164250) * r + 1.0);
    } else {
        r -= 5;
        value = (((0.017337203997 * r + 0.42868294337) * r + 3.0812263860) * r + 6.6579051150) /
                ((0.012258202635 * r + 0.24197894225) * r + 1.0);
    }
    return q < 0 ? -value : value;
}

// Calls work(width) with the width as a constant for the usual ones: the compiler then unrolls what is done
// with a row.
template <typename Work>
void with_width(uint32_t width, Work work) {
    if (width == 1) {
        work(std::integral_constant<uint32_t, 1>());
    } else if (width == 16) {
        work(std::integral_constant<uint32_t, 16>());
    } else {
        work(width);
    }
}

template <typename Width>
void copy_row(float* to, const float* from, Width width) {
    std::memcpy(to, from, 4 * size_t{width});
}

// Sums the gradients of each key that occurs more than once, in the order of the batch. A partition's
// positions lie too far apart for the processor to foresee them.
template <typename Width>
void sum_repeats(const Plan& plan, uint32_t p, const float* grads, float* sums, Width dim) {
    const uint32_t begin = plan.begin(p);
    const uint32_t last = begin + plan.num_distinct(p);
    for (uint32_t place = begin; place < last; ++place) {
        // Those that occur once as well: they are read soon after.
        if (place + kAhead < last)
            prefetch_bytes<0>(grads + size_t{plan.firsts()[place + kAhead]} * dim, 4 * dim);
        if (plan.counts()[place] == 1) continue;
        copy_row(sums + size_t{place} * dim, grads + size_t{plan.firsts()[place]} * dim, dim);
    }
    const uint32_t end = begin + plan.num_repeats(p);
    for (uint32_t i = begin; i < end; ++i) {
        if (i + kAhead < end) prefetch_bytes<0>(grads + size_t{plan.repeats()[i + kAhead]} * dim, 4 * dim);
        const float* __restrict grad = grads + size_t{plan.repeats()[i]} * dim;
        float* __restrict sum = sums + size_t{plan.repeat_places()[i]} * dim;
        for (uint32_t j = 0; j < dim; ++j) sum[j] += grad[j];
    }
}

}  // namespace

Table::Table(const Config& config) : config_(config) {
    uint32_t offset = 0;
    for (Slice& slice : config_.slices) {
        slice.offset = offset;
        slice.state_offset = state_width_;
        slice.state_width = onstream::state_width(slice.optimizer, slice.width, slice.momentum);
        offset += slice.width;
        state_width_ += slice.state_width;
    }
    row_memory_ = std::make_unique<Memory>(config_.dim + state_width_);
    rows_.reserve(kPartitions);
    for (uint32_t p = 0; p < kPartitions; ++p) rows_.emplace_back(p, *row_memory_);
    if (config_.admission.kind == Admission::kSeen) {
        candidate_memory_ = std::make_unique<Memory>(0);
        candidates_.reserve(kPartitions);
        for (uint32_t p = 0; p < kPartitions; ++p) candidates_.emplace_back(p, *candidate_memory_);
    }
    if (config_.admission.kind == Admission::kSketch) {
        sketch_.resize(size_t{kPartitions} * kSketchDepth * config_.admission.cells);
    }
    counters_.resize(1 + kPartitions);
}

uint64_t Table::size() const {
    uint64_t rows = 0;
    for (const Partition& p : rows_) rows += p.size();
    return rows;
}

uint64_t Table::num_candidates() const {
    uint64_t rows = 0;
    for (const Partition& p : candidates_) rows += p.size();
    return rows;
}

uint64_t Table::size_bytes() const {
    uint64_t bytes = sketch_.size();
    for (const Partition& p : rows_) bytes += p.size_bytes();
    for (const Partition& p : candidates_) bytes += p.size_bytes();
    for (const auto* memory : {row_memory_.get(), candidate_memory_.get()}) {
        if (memory != nullptr) bytes += memory->chunks.idle_bytes();
    }
    return bytes;
}

void Table::birth(uint64_t key, float* weights) const {
    const Initial& initial = config_.initial;
    if (initial.kind == Initial::kConstant) {
        std::fill(weights, weights + config_.dim, initial.a);
        return;
    }
    const uint64_t start = mix(key ^ mix(config_.seed));
    for (uint32_t j = 0; j < config_.dim; ++j) {
        const uint64_t bits = mix(start + j);
        if (initial.kind == Initial::kUniform) {
            weights[j] = static_cast<float>(initial.a + (initial.b - initial.a) * unit(bits));
        } else {
            weights[j] = static_cast<float>(initial.a + initial.b * normal_quantile(unit(bits)));
        }
    }
}

// The row of one distinct key, whose guess is in place, or kNone. Learning, it also reads it.
template <typename Width>
uint32_t Table::settle(const Plan& plan, uint32_t p, uint32_t place, uint32_t now, bool learn, Width dim) {
    Partition& rows = rows_[p];
    const uint64_t key = plan.keys()[place];
    const uint64_t spread_key = plan.spreads()[place];
    uint32_t id = ids_[place];
    // The guess knew the tag alone, and rows may have come and gone since.
    if (id != kNone && rows.row(id)->key != key) id = rows.find(key, spread_key);
    if (id != kNone && rows.row(id)->expired(now, config_.ttl)) {
        if (learn) rows.erase(id, spread_key);
        id = kNone;
    }
    if (!learn) return id;
    float* value = values_.data() + size_t{place} * dim;
    uint32_t sights = plan.counts()[place];
    if (id == kNone) {
        birth(key, value);
        if (!admit(p, key, spread_key, sights, now, sights)) return kNone;
        id = rows.create(key, spread_key, now);
        float* weights = rows.row(id)->floats();
        copy_row(weights, value, dim);
        for (const Slice& slice : config_.slices) begin_state(slice, weights, weights + dim);
    } else {
        copy_row(value, rows.row(id)->floats(), dim);
    }
    Row* row = rows.row(id);
    row->add_sights(sights);
    row->seen = std::max(row->seen, now);
    rows.touch(id);
    return id;
}

// Finds the rows of a partition's distinct keys, many look-ups overlapping: ask for the index slot of one,
// read the slot of an earlier one and ask for its row, and use the row of a still earlier one.
void Table::look_up(const Plan& plan, uint32_t p, uint32_t now, bool learn) {
    const Partition& rows = rows_[p];
    const uint32_t begin = plan.begin(p);
    const uint32_t end = begin + plan.num_distinct(p);
    with_width(config_.dim, [&](auto dim) {
        for (uint32_t i = begin; i < end + 2 * kAhead; ++i) {
            if (i < end) rows.prefetch_slot(plan.spreads()[i]);
            if (i >= begin + kAhead && i - kAhead < end) {
                const uint32_t place = i - kAhead;
                ids_[place] = rows.guess(plan.spreads()[place]);
                if (ids_[place] != kNone) rows.prefetch_row(ids_[place]);
            }
            if (i >= begin + 2 * kAhead) {
                const uint32_t place = i - 2 * kAhead;
                ids_[place] = settle(plan, p, place, now, learn, dim);
            }
        }
    });
    if (learn) {
        const uint64_t budget = kSweptPerKey * plan.num_keys(p) + 1;
        rows_[p].sweep(now, config_.ttl, budget);
        if (!candidates_.empty()) candidates_[p].sweep(now, config_.ttl, budget);
    }
}

// Whether a key without a row gets one now, having occurred `times` times in this batch. `sights` becomes how
// often it was seen in all, where that is known.
bool Table::admit(uint32_t p, uint64_t key, uint64_t spread_key, uint32_t times, uint32_t now,
                  uint32_t& sights) {
    const Admission& admission = config_.admission;
    if (admission.kind == Admission::kAlways) return true;
    if (admission.kind == Admission::kChance) {
        // Poisson inclusion (McMahan et al. 2013, 3.1.1): each sight admits with the same probability.
        const double chance = 1 - std::pow(1 - admission.probability, times);
        return unit(mix(key ^ mix(config_.seed + counters_[0]))) < chance;
    }
    if (admission.kind == Admission::kSeen) {
        Partition& waiting = candidates_[p];
        uint32_t id = waiting.find(key, spread_key);
        if (id != kNone && waiting.row(id)->expired(now, config_.ttl)) {
            waiting.erase(id, spread_key);
            id = kNone;
        }
        if (id == kNone) id = waiting.create(key, spread_key, now);
        Row* row = waiting.row(id);
        row->add_sights(times);
        row->seen = std::max(row->seen, now);
        waiting.touch(id);
        if (row->count < admission.times) return false;
        sights = row->count;
        waiting.erase(id, spread_key);
        return true;
    }
    // Count-min with conservative update (Estan, Varghese 2002): only the smallest cells grow.
    uint8_t* cells = &sketch_[size_t{p} * kSketchDepth * admission.cells];
    uint8_t* own[kSketchDepth];
    uint32_t least = kMostCount;
    for (uint32_t d = 0; d < kSketchDepth; ++d) {
        own[d] = cells + size_t{d} * admission.cells + (mix(spread_key + d) & (admission.cells - 1));
        least = std::min<uint32_t>(least, *own[d]);
    }
    const uint32_t grown = std::min(least + times, kMostCount);
    for (uint8_t* cell : own) *cell = static_cast<uint8_t>(std::max<uint32_t>(*cell, grown));
    // Ages by halving once as many sights were added as a row has cells, so an endless stream does not fill
    // it.
    uint64_t& added = counters_[1 + p];
    added += times;
    if (added >= admission.cells) {
        added = 0;
        const size_t total = size_t{kSketchDepth} * admission.cells;
        for (size_t c = 0; c < total; ++c) cells[c] >>= 1;
    }
    sights = grown;
    return grown >= admission.times;
}

// Reads rows one by one: what is only read needs neither grouping nor distinct keys, and any number of
// threads may read at once.
void Table::read(const uint64_t* keys, size_t n, float* out, uint32_t now) const {
    std::shared_lock guard(mutex_);
    const uint32_t dim = config_.dim;
    const int threads = threads_for(n);
    const size_t ranges = threads == 1 ? 1 : static_cast<size_t>(threads) * 4;
    for_each_item(threads, ranges, [&](size_t r) {
        constexpr size_t kRing = 2 * kAhead;
        uint64_t spreads[kRing];
        uint32_t guesses[kRing];
        const size_t begin = n * r / ranges;
        const size_t end = n * (r + 1) / ranges;
        for (size_t i = begin; i < end + kRing; ++i) {
            // The oldest first: its places in the ring are taken over by the newest.
            if (i >= begin + kRing) {
                const size_t k = i - kRing;
                copy_or_birth(keys[k], spreads[k % kRing], guesses[k % kRing], now, out + k * dim);
            }
            if (i < end) {
                spreads[i % kRing] = spread(keys[i]);
                rows_[partition_of(spreads[i % kRing])].prefetch_slot(spreads[i % kRing]);
            }
            if (i >= begin + kAhead && i - kAhead < end) {
                const size_t k = i - kAhead;
                const Partition& rows = rows_[partition_of(spreads[k % kRing])];
                guesses[k % kRing] = rows.guess(spreads[k % kRing]);
                if (guesses[k % kRing] != kNone) rows.prefetch_weights(guesses[k % kRing], dim);
            }
        }
    });
}

void Table::copy_or_birth(uint64_t key, uint64_t spread_key, uint32_t guess, uint32_t now, float* out) const {
    if (key == kNoRow) {
        std::fill(out, out + config_.dim, 0.0f);
        return;
    }
    const Partition& rows = rows_[partition_of(spread_key)];
    uint32_t id = guess;
    // The guess knew the tag alone.
    if (id != kNone && rows.row(id)->key != key) id = rows.find(key, spread_key);
    if (id == kNone || rows.row(id)->expired(now, config_.ttl)) {
        birth(key, out);
    } else {
        copy_row(out, rows.row(id)->floats(), config_.dim);
    }
}

void Table::pull(const Plan& plan, float* out, uint32_t now) {
    std::lock_guard guard(mutex_);
    pull_planned(plan, out, now);
}

void Table::pull(const uint64_t* keys, size_t n, float* out, uint32_t now) {
    std::lock_guard guard(mutex_);
    plan_own(keys, n);
    pull_planned(own_, out, now);
}

void Table::plan_own(const uint64_t* keys, size_t n) {
    // Without memory for the plan, there are no keys that it is of.
    own_keys_.clear();
    own_.make(keys, n, config_.threads);
    own_keys_.assign(keys, keys + n);
}

void Table::pull_planned(const Plan& plan, float* out, uint32_t now) {
    const size_t n = plan.size();
    const int threads = threads_for(n);
    pulled_ = 0;
    ids_.grow_to(n);
    values_.grow_to(n * config_.dim);
    counters_[0] += 1;
    for_each_item(threads, kPartitions,
                  [&](size_t p) { look_up(plan, static_cast<uint32_t>(p), now, true); });
    // Rows are written by ranges of positions, not by partition: with narrow rows many share a cache line.
    const size_t ranges = static_cast<size_t>(threads) * 4;
    for_each_item(threads, ranges, [&](size_t r) {
        const size_t end = n * (r + 1) / ranges;
        with_width(config_.dim, [&](auto dim) {
            const float* values = values_.data();
            for (size_t i = n * r / ranges; i < end; ++i) {
                if (dim > 4 && i + kAhead < end && plan.by_position()[i + kAhead] != kNone) {
                    __builtin_prefetch(values + size_t{plan.by_position()[i + kAhead]} * dim);
                }
                const uint32_t place = plan.by_position()[i];
                if (place == kNone) {
                    std::fill(out + i * dim, out + (i + 1) * dim, 0.0f);
                } else {
                    copy_row(out + i * dim, values + size_t{place} * dim, dim);
                }
            }
        });
    });
    pulled_ = plan.serial();
}

void Table::push(const Plan& plan, const float* grads) {
    std::lock_guard guard(mutex_);
    push_planned(plan, grads);
}

void Table::push(const uint64_t* keys, size_t n, const float* grads) {
    if (n == 0) return;
    std::lock_guard guard(mutex_);
    // The usual push follows the pull of the same keys; then everything is known already.
    if (own_keys_.size() != n || std::memcmp(own_keys_.data(), keys, n * 8) != 0) {
        plan_own(keys, n);
    }
    push_planned(own_, grads);
}

void Table::push_planned(const Plan& plan, const float* grads) {
    const bool known = pulled_ != 0 && pulled_ == plan.serial();
    // Whoever pushes again pushes more: rows may be others then.
    pulled_ = 0;
    ids_.grow_to(plan.size());
    sums_.grow_to(plan.size() * config_.dim);
    for_each_item(threads_for(plan.size()), kPartitions, [&](size_t item) {
        const auto p = static_cast<uint32_t>(item);
        const uint32_t begin = plan.begin(p);
        const uint32_t num_distinct = plan.num_distinct(p);
        if (!known) {
            look_up(plan, p, 0, false);
            for (uint32_t place = begin; place < begin + num_distinct; ++place) {
                if (ids_[place] != kNone) rows_[p].touch(ids_[place]);
            }
        }
        with_width(config_.dim, [&](auto dim) { sum_repeats(plan, p, grads, sums_.data(), dim); });
        std::vector<Step> steps;
        steps.reserve(num_distinct);
        for (uint32_t place = begin; place < begin + num_distinct; ++place) {
            if (ids_[place] == kNone) continue;
            const bool summed = plan.counts()[place] > 1;
            const float* grad = summed ? &sums_[size_t{place} * config_.dim]
                                       : grads + size_t{plan.firsts()[place]} * config_.dim;
            steps.push_back({rows_[p].row(ids_[place])->floats(), grad});
        }
        for (const Slice& slice : config_.slices) apply(slice, config_.dim, steps.data(), steps.size());
    });
}

Cut Table::choose(bool candidates, bool all) {
    std::lock_guard guard(mutex_);
    Cut cut;
    if (candidates && candidates_.empty()) return cut;
    for_each_item(config_.threads, kPartitions, [&](size_t p) {
        const Partition& part = partition(candidates, static_cast<uint32_t>(p));
        cut.ids[p] = all ? part.all() : part.touched();
        if (!all) cut.deleted[p] = part.deleted();
    });
    return cut;
}

void Table::copy(bool candidates, const Cut& cut, uint64_t* keys, uint32_t* seen, uint32_t* count,
                 float* weights, float* state) {
    std::lock_guard guard(mutex_);
    if (candidates && candidates_.empty()) return;
    const uint32_t dim = candidates ? 0 : config_.dim;
    const uint32_t width = candidates ? 0 : state_width_;
    size_t starts[kPartitions + 1] = {};
    for (uint32_t p = 0; p < kPartitions; ++p) starts[p + 1] = starts[p] + cut.ids[p].size();
    for_each_item(threads_for(starts[kPartitions]), kPartitions, [&](size_t p) {
        Partition& part = partition(candidates, static_cast<uint32_t>(p));
        const std::vector<uint32_t>& ids = cut.ids[p];
        for (size_t i = 0, at = starts[p]; i < ids.size(); ++i, ++at) {
            if (i + kAhead < ids.size()) part.prefetch_row(ids[i + kAhead]);
            Row* row = part.row(ids[i]);
            keys[at] = row->key;
            seen[at] = row->seen;
            count[at] = row->count;
            std::memcpy(weights + at * dim, row->floats(), 4 * size_t{dim});
            std::memcpy(state + at * width, row->floats() + dim, 4 * size_t{width});
        }
    });
}

void Table::cut_done(bool candidates) {
    std::lock_guard guard(mutex_);
    // A push that follows must mark its rows as touched again.
    pulled_ = 0;
    if (candidates && candidates_.empty()) return;
    for (uint32_t p = 0; p < kPartitions; ++p) partition(candidates, p).cut_done();
}

uint64_t Table::evict(uint32_t now, uint64_t max_rows) {
    std::lock_guard guard(mutex_);
    pulled_ = 0;
    uint64_t erased = 0;
    for (uint32_t p = 0; p < kPartitions; ++p) {
        erased += rows_[p].sweep(now, config_.ttl, max_rows / kPartitions + 1);
        if (!candidates_.empty()) candidates_[p].sweep(now, config_.ttl, max_rows / kPartitions + 1);
    }
    return erased;
}

void Table::load(bool candidates, size_t n, const uint64_t* keys, const uint32_t* seen, const uint32_t* count,
                 const float* weights, const float* state, bool touched, bool newer_only) {
    std::lock_guard guard(mutex_);
    pulled_ = 0;
    if (candidates && candidates_.empty()) return;
    const uint32_t dim = candidates ? 0 : config_.dim;
    const uint32_t width = candidates ? 0 : state_width_;
    for (size_t i = 0; i < n; ++i) {
        if (i + kAhead < n) {
            const uint64_t later = spread(keys[i + kAhead]);
            partition(candidates, partition_of(later)).prefetch_slot(later);
        }
        if (keys[i] == kNoRow) continue;
        const uint64_t spread_key = spread(keys[i]);
        Partition& part = partition(candidates, partition_of(spread_key));
        uint32_t id = part.find(keys[i], spread_key);
        const bool fresh = id == kNone;
        if (fresh) id = part.create(keys[i], spread_key, seen[i]);
        Row* row = part.row(id);
        const bool newer = seen[i] != row->seen ? seen[i] > row->seen : count[i] >= row->count;
        if (newer_only && !fresh && !newer) continue;
        row->seen = seen[i];
        row->count = count[i];
        std::memcpy(row->floats(), weights + i * dim, 4 * size_t{dim});
        std::memcpy(row->floats() + dim, state + i * width, 4 * size_t{width});
        if (touched) part.touch(id);
    }
    // Rows that come from a checkpoint are not news for the next one.
    if (!touched) {
        for (uint32_t p = 0; p < kPartitions; ++p) partition(candidates, p).cut_done();
    }
}

void Table::begin_states(size_t n, const float* weights, float* states) const {
    for (size_t i = 0; i < n; ++i) {
        for (const Slice& slice : config_.slices) {
            begin_state(slice, weights + i * config_.dim, states + i * state_width_);
        }
    }
}

uint64_t Table::remove(bool candidates, const uint64_t* keys, size_t n) {
    std::lock_guard guard(mutex_);
    pulled_ = 0;
    if (candidates && candidates_.empty()) return 0;
    uint64_t removed = 0;
    for (size_t i = 0; i < n; ++i) {
        const uint64_t spread_key = spread(keys[i]);
        Partition& part = partition(candidates, partition_of(spread_key));
        const uint32_t id = part.find(keys[i], spread_key);
        if (id == kNone) continue;
        part.erase(id, spread_key);
        removed += 1;
    }
    return removed;
}

}  // namespace onstream
