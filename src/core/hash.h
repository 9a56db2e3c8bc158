// Hashing of values and Arrow columns to salted 64-bit keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "arrow_abi.h"

namespace onstream {

// Invariant: no key is 0. Key 0 stands for "no row" (the padding of a list).
constexpr uint64_t kNoRow = 0;

// A bijection of 64-bit words in which every input bit moves every output bit: the finalizer of SplitMix64
// (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
inline uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

// 64 bits of a byte string; independent for independent seeds.
uint64_t hash_bytes(const uint8_t* bytes, size_t size, uint64_t seed);

// The key of an integer: a bijection for each salt, but for the one input that would give 0.
inline uint64_t integer_key(int64_t value, uint64_t salt) {
    const uint64_t key = mix(static_cast<uint64_t>(value) + salt);
    return key == kNoRow ? ~uint64_t{0} : key;
}

// The key of a string; that of an integer if the string is its canonical decimal text.
uint64_t string_key(const uint8_t* bytes, size_t size, uint64_t salt);

// The key of an unsigned integer: beyond the range of int64 it is that of its text.
uint64_t unsigned_key(uint64_t value, uint64_t salt);

// The key of a null.
uint64_t null_key(uint64_t salt);

enum RowFault : uint8_t { kFine = 0, kTooLong = 1, kNotWhole = 2 };

// Where keys go: `stride` counts elements.
struct KeyOutput {
    uint64_t* keys;
    ptrdiff_t stride;
    uint8_t* faults;  // one a row, zeroed by the caller
};

// Hashes a column. Returns false, with `why` set, when its type cannot be hashed. `any_fault` tells whether a
// fault was written.
bool hash_column(const ArrowSchema& schema, const ArrowArray& array, uint64_t salt, size_t max_bytes,
                 const KeyOutput& output, bool& any_fault, std::string& why);

}  // namespace onstream
