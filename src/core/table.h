// The embedding table: rows by key, moved by their optimizers.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "optimizers.h"
#include "plan.h"
#include "rows.h"

namespace onstream {

// How the weights of a new row are drawn, from a hash of its key and the seed.
struct Initial {
    enum Kind { kConstant, kUniform, kNormal } kind = kConstant;
    float a = 0;  // constant; low; mean
    float b = 0;  // high; standard deviation
};

// When a key gets a row.
struct Admission {
    enum Kind { kAlways, kSeen, kSketch, kChance } kind = kAlways;
    uint32_t times = 1;        // kSeen, kSketch
    uint32_t cells = 0;        // kSketch: cells of one partition's sketch row, a power of two
    double probability = 1.0;  // kChance
};

struct Config {
    uint32_t dim = 0;
    std::vector<Slice> slices;
    Initial initial;
    Admission admission;
    uint32_t ttl = 0;  // seconds of event time; 0: rows do not expire
    uint64_t seed = 0;
    int threads = 1;
};

// Which rows a cut takes and which keys are gone, by partition.
struct Cut {
    std::vector<uint32_t> ids[kPartitions];
    std::vector<uint64_t> deleted[kPartitions];
};

class Table {
  public:
    explicit Table(const Config& config);

    uint32_t dim() const { return config_.dim; }
    uint32_t state_width() const { return state_width_; }

    // out: (n, dim). Key 0 reads as zeros. A key without a row reads as the row that it would be born with. A
    // pull is a sight of its keys; a read changes nothing, and runs beside other reads.
    void pull(const Plan& plan, float* out, uint32_t now);
    void pull(const uint64_t* keys, size_t n, float* out, uint32_t now);
    void read(const uint64_t* keys, size_t n, float* out, uint32_t now) const;

    // grads: (n, dim). Keys without a row are passed over. A push of what was pulled last looks nothing up.
    void push(const Plan& plan, const float* grads);
    void push(const uint64_t* keys, size_t n, const float* grads);

    // A cut in two steps, so that the caller can allocate between them: the rows touched since the last cut
    // (or all of them), and their copies in the order of the partitions. Nothing may happen to the table in
    // between.
    Cut choose(bool candidates, bool all);
    void copy(bool candidates, const Cut& cut, uint64_t* keys, uint32_t* seen, uint32_t* count,
              float* weights, float* state);
    // From here on only what is touched later belongs to the next cut.
    void cut_done(bool candidates);

    uint64_t evict(uint32_t now, uint64_t max_rows);
    // Puts rows over those that are there; with `newer_only`, only where these were not seen later or more
    // often.
    void load(bool candidates, size_t n, const uint64_t* keys, const uint32_t* seen, const uint32_t* count,
              const float* weights, const float* state, bool touched, bool newer_only);
    // What the optimizers remember of rows that begin with these weights: (n, dim) to (n, state_width).
    void begin_states(size_t n, const float* weights, float* states) const;
    uint64_t remove(bool candidates, const uint64_t* keys, size_t n);

    std::vector<uint8_t>& sketch() { return sketch_; }
    std::vector<uint64_t>& counters() { return counters_; }

    uint64_t size() const;
    uint64_t num_candidates() const;
    uint64_t size_bytes() const;

  private:
    int threads_for(size_t n) const { return onstream::threads_for(n, config_.threads); }
    void look_up(const Plan& plan, uint32_t p, uint32_t now, bool learn);
    template <typename Width>
    uint32_t settle(const Plan& plan, uint32_t p, uint32_t place, uint32_t now, bool learn, Width dim);
    void plan_own(const uint64_t* keys, size_t n);
    void pull_planned(const Plan& plan, float* out, uint32_t now);
    void push_planned(const Plan& plan, const float* grads);
    bool admit(uint32_t p, uint64_t key, uint64_t spread_key, uint32_t times, uint32_t now, uint32_t& sights);
    void birth(uint64_t key, float* weights) const;
    void copy_or_birth(uint64_t key, uint64_t spread_key, uint32_t guess, uint32_t now, float* out) const;
    Partition& partition(bool candidates, uint32_t p) { return candidates ? candidates_[p] : rows_[p]; }

    Config config_;
    uint32_t state_width_ = 0;
    std::unique_ptr<Memory> row_memory_, candidate_memory_;
    std::vector<Partition> rows_;
    std::vector<Partition> candidates_;  // keys that wait for admission: rows without floats
    std::vector<uint8_t> sketch_;        // (partitions, depth, cells), count-min
    std::vector<uint64_t> counters_;  // [0]: learning pulls; [1 + p]: additions to the sketch of p since aged
    // By place of the plan that was pulled last: the row of a key, or kNone; what was read; summed gradients.
    uint64_t pulled_ = 0;  // its serial number; 0 once rows may have come or gone
    Buffer<uint32_t> ids_;
    Buffer<float> values_, sums_;
    Plan own_;  // of the keys that came without a plan
    std::vector<uint64_t> own_keys_;
    mutable std::shared_mutex mutex_;
};

}  // namespace onstream
