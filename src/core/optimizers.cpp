#include "optimizers.h"

#include <cmath>
#include <cstring>

#include "rows.h"

// Each loop over rows is compiled for several instruction sets and chosen at load time, so that one wheel
// runs well everywhere.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ONSTREAM_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ONSTREAM_CLONES
#endif

namespace onstream {
namespace {

// Rows lie scattered: ask for the one that is needed this many steps later.
constexpr size_t kAhead = 16;

inline void prefetch(const Step* steps, size_t i, size_t n, uint32_t bytes) {
    if (i + kAhead >= n) return;
    prefetch_bytes<1>(steps[i + kAhead].weights, bytes);
}

// v <- momentum * v + g; w <- w - lr * v. Without momentum there is no state.
ONSTREAM_CLONES void apply_sgd(const Slice& s, uint32_t dim, const Step* steps, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        prefetch(steps, i, n, 4 * (dim + s.state_width));
        float* __restrict w = steps[i].weights + s.offset;
        const float* __restrict g = steps[i].grad + s.offset;
        if (s.momentum == 0) {
            for (uint32_t j = 0; j < s.width; ++j) w[j] -= s.lr * g[j];
            continue;
        }
        float* __restrict v = steps[i].weights + dim + s.state_offset;
        for (uint32_t j = 0; j < s.width; ++j) {
            v[j] = s.momentum * v[j] + g[j];
            w[j] -= s.lr * v[j];
        }
    }
}

// Duchi, Hazan, Singer 2011, "Adaptive subgradient methods", diagonal form.
ONSTREAM_CLONES void apply_adagrad(const Slice& s, uint32_t dim, const Step* steps, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        prefetch(steps, i, n, 4 * (dim + s.state_width));
        float* __restrict w = steps[i].weights + s.offset;
        float* __restrict a = steps[i].weights + dim + s.state_offset;
        const float* __restrict g = steps[i].grad + s.offset;
        for (uint32_t j = 0; j < s.width; ++j) {
            a[j] += g[j] * g[j];
            w[j] -= s.lr * g[j] / (std::sqrt(a[j]) + s.eps);
        }
    }
}

// One accumulator a row, of the mean squared gradient (as FBGEMM's row-wise Adagrad).
ONSTREAM_CLONES void apply_rowwise_adagrad(const Slice& s, uint32_t dim, const Step* steps, size_t n) {
    constexpr uint32_t kLanes = 16;
    for (size_t i = 0; i < n; ++i) {
        prefetch(steps, i, n, 4 * (dim + 1));
        float* __restrict w = steps[i].weights + s.offset;
        float* __restrict a = steps[i].weights + dim + s.state_offset;
        const float* __restrict g = steps[i].grad + s.offset;
        // Lanes of a fixed number give one order of summation for every instruction set.
        float lanes[kLanes] = {};
        uint32_t j = 0;
        for (; j + kLanes <= s.width; j += kLanes) {
            for (uint32_t k = 0; k < kLanes; ++k) lanes[k] += g[j + k] * g[j + k];
        }
        for (uint32_t k = 0; j + k < s.width; ++k) lanes[k] += g[j + k] * g[j + k];
        for (uint32_t half = kLanes / 2; half > 0; half /= 2) {
            for (uint32_t k = 0; k < half; ++k) lanes[k] += lanes[k + half];
        }
        *a += lanes[0] / static_cast<float>(s.width);
        const float scale = s.lr / (std::sqrt(*a) + s.eps);
        for (uint32_t k = 0; k < s.width; ++k) w[k] -= scale * g[k];
    }
}

// Kingma, Ba 2015, algorithm 1. State: m, v, then the number of steps of this row.
ONSTREAM_CLONES void apply_adam(const Slice& s, uint32_t dim, const Step* steps, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        prefetch(steps, i, n, 4 * (dim + s.state_width));
        float* __restrict w = steps[i].weights + s.offset;
        float* __restrict m = steps[i].weights + dim + s.state_offset;
        float* __restrict v = m + s.width;
        float* t = v + s.width;
        const float* __restrict g = steps[i].grad + s.offset;
        *t += 1;
        const float c1 = static_cast<float>(1 - std::pow(static_cast<double>(s.beta1), *t));
        const float c2 = static_cast<float>(1 - std::pow(static_cast<double>(s.beta2), *t));
        for (uint32_t j = 0; j < s.width; ++j) {
            m[j] = s.beta1 * m[j] + (1 - s.beta1) * g[j];
            v[j] = s.beta2 * v[j] + (1 - s.beta2) * g[j] * g[j];
            w[j] -= s.lr * (m[j] / c1) / (std::sqrt(v[j] / c2) + s.eps);
        }
    }
}

inline float soft_threshold(float z, float l1) { return z > l1 ? z - l1 : (z < -l1 ? z + l1 : 0.0f); }

// McMahan et al. 2013, "Ad click prediction: a view from the trenches", algorithm 1. State: z, n.
ONSTREAM_CLONES void apply_ftrl(const Slice& s, uint32_t dim, const Step* steps, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        prefetch(steps, i, count, 4 * (dim + s.state_width));
        float* __restrict w = steps[i].weights + s.offset;
        float* __restrict z = steps[i].weights + dim + s.state_offset;
        float* __restrict n = z + s.width;
        const float* __restrict g = steps[i].grad + s.offset;
        for (uint32_t j = 0; j < s.width; ++j) {
            const float next = n[j] + g[j] * g[j];
            const float root = std::sqrt(next);
            z[j] += g[j] - (root - std::sqrt(n[j])) / s.lr * w[j];
            n[j] = next;
            const float pull = soft_threshold(z[j], s.l1);
            w[j] = -pull / ((s.beta + root) / s.lr + s.l2);
        }
    }
}

// Sparse group lasso in the FTRL form: Yue et al. 2021, "Adaptive optimizers with sparse group lasso for
// neural networks in CTR prediction" (arXiv 2107.14432), algorithm 2 with the slice as the group. State: z,
// n.
ONSTREAM_CLONES void apply_group_ftrl(const Slice& s, uint32_t dim, const Step* steps, size_t count) {
    const float bound = s.l21 * std::sqrt(static_cast<float>(s.width));
    for (size_t i = 0; i < count; ++i) {
        prefetch(steps, i, count, 4 * (dim + s.state_width));
        float* __restrict w = steps[i].weights + s.offset;
        float* __restrict z = steps[i].weights + dim + s.state_offset;
        float* __restrict n = z + s.width;
        const float* __restrict g = steps[i].grad + s.offset;
        float norm2 = 0;
        for (uint32_t j = 0; j < s.width; ++j) {
            const float next = n[j] + g[j] * g[j];
            z[j] += g[j] - (std::sqrt(next) - std::sqrt(n[j])) / s.lr * w[j];
            n[j] = next;
            const float pull = soft_threshold(z[j], s.l1);
            norm2 += pull * pull;
        }
        const float norm = std::sqrt(norm2);
        const float shrink = norm <= bound ? 0.0f : 1 - bound / norm;
        for (uint32_t j = 0; j < s.width; ++j) {
            const float pull = soft_threshold(z[j], s.l1);
            w[j] = -shrink * pull / ((s.beta + std::sqrt(n[j])) / s.lr + s.l2);
        }
    }
}

// The z for which the FTRL formulas give back the initial weights at n = 0.
void begin_ftrl(const Slice& s, const float* w, float* z) {
    const float scale = s.beta / s.lr + s.l2;
    float norm2 = 0;
    for (uint32_t j = 0; j < s.width; ++j) {
        z[j] = -w[j] * scale;
        norm2 += z[j] * z[j];
    }
    const float norm = std::sqrt(norm2);
    const float bound =
        s.optimizer == Optimizer::kGroupFtrl ? s.l21 * std::sqrt(static_cast<float>(s.width)) : 0;
    const float grow = norm > 0 ? 1 + bound / norm : 1;
    for (uint32_t j = 0; j < s.width; ++j) {
        z[j] *= grow;
        if (z[j] != 0) z[j] += std::copysign(s.l1, z[j]);
    }
}

}  // namespace

uint32_t state_width(Optimizer optimizer, uint32_t width, float momentum) {
    switch (optimizer) {
        case Optimizer::kNone:
            return 0;
        case Optimizer::kSgd:
            return momentum == 0 ? 0 : width;
        case Optimizer::kAdagrad:
            return width;
        case Optimizer::kRowwiseAdagrad:
            return 1;
        case Optimizer::kAdam:
            return 2 * width + 1;
        case Optimizer::kFtrl:
        case Optimizer::kGroupFtrl:
            return 2 * width;
    }
    return 0;
}

void begin_state(const Slice& slice, const float* weights, float* state) {
    float* own = state + slice.state_offset;
    const bool accumulates =
        slice.optimizer == Optimizer::kAdagrad || slice.optimizer == Optimizer::kRowwiseAdagrad;
    for (uint32_t j = 0; j < slice.state_width; ++j) own[j] = accumulates ? slice.initial : 0.0f;
    if (slice.optimizer == Optimizer::kFtrl || slice.optimizer == Optimizer::kGroupFtrl) {
        begin_ftrl(slice, weights + slice.offset, own);
    }
}

void apply(const Slice& slice, uint32_t dim, const Step* steps, size_t n) {
    switch (slice.optimizer) {
        case Optimizer::kNone:
            return;
        case Optimizer::kSgd:
            return apply_sgd(slice, dim, steps, n);
        case Optimizer::kAdagrad:
            return apply_adagrad(slice, dim, steps, n);
        case Optimizer::kRowwiseAdagrad:
            return apply_rowwise_adagrad(slice, dim, steps, n);
        case Optimizer::kAdam:
            return apply_adam(slice, dim, steps, n);
        case Optimizer::kFtrl:
            return apply_ftrl(slice, dim, steps, n);
        case Optimizer::kGroupFtrl:
            return apply_group_ftrl(slice, dim, steps, n);
    }
}

}  // namespace onstream
