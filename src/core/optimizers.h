// Row optimizers: how a gradient changes one slice of a row.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onstream {

enum class Optimizer { kNone, kSgd, kAdagrad, kRowwiseAdagrad, kAdam, kFtrl, kGroupFtrl };

// Floats [offset, offset + width) of a row and the optimizer that moves them.
struct Slice {
    Optimizer optimizer = Optimizer::kNone;
    uint32_t width = 0;
    uint32_t offset = 0;        // first weight of the slice
    uint32_t state_offset = 0;  // first float of its state
    uint32_t state_width = 0;
    float lr = 0, momentum = 0, eps = 0, initial = 0, beta1 = 0, beta2 = 0, beta = 0, l1 = 0, l2 = 0, l21 = 0;
};

// Floats of state that a slice of `width` weights needs.
uint32_t state_width(Optimizer optimizer, uint32_t width, float momentum);

// Sets the state of a new row whose weights are already initial.
void begin_state(const Slice& slice, const float* weights, float* state);

// One row to be moved: `weights` (dim), followed in memory by its state, and `grad` (dim).
struct Step {
    float* weights;
    const float* grad;
};

// Applies one gradient step to each row. `dim` is the number of weights of a row.
void apply(const Slice& slice, uint32_t dim, const Step* steps, size_t n);

}  // namespace onstream
