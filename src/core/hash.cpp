#include "hash.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

namespace onstream {
namespace {

uint64_t load64(const uint8_t* p) {
    uint64_t v;
    std::memcpy(&v, p, 8);
    return v;
}

uint64_t load32(const uint8_t* p) {
    uint32_t v;
    std::memcpy(&v, p, 4);
    return v;
}

// The two halves of a 128-bit product, folded: one multiplication mixes 128 bits of input.
uint64_t fold(uint64_t a, uint64_t b) {
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

constexpr uint64_t kSecretA = 0x9e3779b97f4a7c15ULL;  // 2^64 / golden ratio
constexpr uint64_t kSecretB = 0xd1b54a32d192ed03ULL;
constexpr uint64_t kNullMark = 0x6e756c6c6e756c6cULL;  // "nullnull"

// Whether eight characters are all decimal digits: no branch, as the digits of a hexadecimal id are not
// foreseen.
bool eight_digits(const uint8_t* text) {
    constexpr uint64_t kHigh = 0xf0f0f0f0f0f0f0f0ULL;
    constexpr uint64_t kDigits = 0x3030303030303030ULL;
    const uint64_t word = load64(text);
    // Adding 6 carries the low half of what follows '9' into the high half.
    return (word & kHigh) == kDigits && ((word + 0x0606060606060606ULL) & kHigh) == kDigits;
}

// Whether the text is the canonical decimal form of an int64: no plus, no leading zero, no "-0".
bool canonical_integer(const uint8_t* text, size_t size, int64_t& value) {
    if (size == 0 || size > 20) return false;
    const bool negative = text[0] == '-';
    const size_t first = negative ? 1 : 0;
    if (first == size) return false;
    if (size >= first + 8 && !eight_digits(text + first)) return false;
    if (text[first] == '0' && (negative || size > 1)) return false;
    for (size_t i = first; i < size; ++i) {
        if (static_cast<unsigned>(text[i] - '0') > 9) return false;
    }
    const char* begin = reinterpret_cast<const char*>(text);
    const auto parsed = std::from_chars(begin, begin + size, value);
    return parsed.ec == std::errc();
}

bool is_valid(const ArrowArray& array, int64_t i) {
    const auto* bits = static_cast<const uint8_t*>(array.buffers[0]);
    if (bits == nullptr) return true;
    const int64_t at = array.offset + i;
    return (bits[at >> 3] >> (at & 7)) & 1;
}

bool has_nulls(const ArrowArray& array) {
    return array.null_count != 0 && array.n_buffers > 0 && array.buffers[0] != nullptr;
}

// Calls key_of(i) for every valid row and writes what it returns.
template <typename KeyOf>
void for_rows(const ArrowArray& array, uint64_t salt, const KeyOutput& out, KeyOf key_of) {
    const int64_t rows = array.length;
    if (!has_nulls(array)) {
        for (int64_t i = 0; i < rows; ++i) out.keys[i * out.stride] = key_of(i);
        return;
    }
    const uint64_t null = null_key(salt);
    for (int64_t i = 0; i < rows; ++i) out.keys[i * out.stride] = is_valid(array, i) ? key_of(i) : null;
}

template <typename T>
void hash_signed(const ArrowArray& array, uint64_t salt, const KeyOutput& out) {
    const T* values = static_cast<const T*>(array.buffers[1]) + array.offset;
    for_rows(array, salt, out, [&](int64_t i) { return integer_key(values[i], salt); });
}

template <typename T>
void hash_unsigned(const ArrowArray& array, uint64_t salt, const KeyOutput& out) {
    const T* values = static_cast<const T*>(array.buffers[1]) + array.offset;
    for_rows(array, salt, out, [&](int64_t i) { return unsigned_key(values[i], salt); });
}

template <typename T>
bool hash_floats(const ArrowArray& array, uint64_t salt, const KeyOutput& out) {
    const T* values = static_cast<const T*>(array.buffers[1]) + array.offset;
    bool fault = false;
    for_rows(array, salt, out, [&](int64_t i) -> uint64_t {
        const double value = values[i];
        if (std::isnan(value)) return null_key(salt);
        // 2^63 is the first double beyond int64; every double below it converts exactly.
        if (std::floor(value) != value || value >= 0x1p63 || value < -0x1p63) {
            out.faults[i] = kNotWhole;
            fault = true;
            return kNoRow;
        }
        return integer_key(static_cast<int64_t>(value), salt);
    });
    return fault;
}

// `view(i)` gives the bytes of row i.
template <typename View>
bool hash_strings(const ArrowArray& array, uint64_t salt, size_t max_bytes, const KeyOutput& out, View view) {
    bool fault = false;
    for_rows(array, salt, out, [&](int64_t i) -> uint64_t {
        const std::basic_string_view<uint8_t> text = view(i);
        if (text.size() > max_bytes) {
            out.faults[i] = kTooLong;
            fault = true;
            return kNoRow;
        }
        return string_key(text.data(), text.size(), salt);
    });
    return fault;
}

template <typename Offset>
bool hash_offset_strings(const ArrowArray& array, uint64_t salt, size_t max_bytes, const KeyOutput& out) {
    const Offset* offsets = static_cast<const Offset*>(array.buffers[1]) + array.offset;
    const auto* data = static_cast<const uint8_t*>(array.buffers[2]);
    return hash_strings(array, salt, max_bytes, out, [=](int64_t i) {
        return std::basic_string_view<uint8_t>(data + offsets[i],
                                               static_cast<size_t>(offsets[i + 1] - offsets[i]));
    });
}

// A string view is 16 bytes: size, then 12 bytes inline or prefix, buffer number and offset.
bool hash_view_strings(const ArrowArray& array, uint64_t salt, size_t max_bytes, const KeyOutput& out) {
    const auto* views = static_cast<const uint8_t*>(array.buffers[1]) + array.offset * 16;
    return hash_strings(array, salt, max_bytes, out, [&, views](int64_t i) {
        const uint8_t* view = views + i * 16;
        const size_t size = load32(view);
        if (size <= 12) return std::basic_string_view<uint8_t>(view + 4, size);
        const auto* buffer = static_cast<const uint8_t*>(array.buffers[2 + load32(view + 8)]);
        return std::basic_string_view<uint8_t>(buffer + load32(view + 12), size);
    });
}

void hash_booleans(const ArrowArray& array, uint64_t salt, const KeyOutput& out) {
    const auto* bits = static_cast<const uint8_t*>(array.buffers[1]);
    for_rows(array, salt, out, [&](int64_t i) {
        const int64_t at = array.offset + i;
        return integer_key((bits[at >> 3] >> (at & 7)) & 1, salt);
    });
}

template <typename Index>
void gather_dictionary(const ArrowArray& array, uint64_t salt, const std::vector<uint64_t>& keys,
                       const std::vector<uint8_t>& faults, const KeyOutput& out, bool& any_fault) {
    const Index* indices = static_cast<const Index*>(array.buffers[1]) + array.offset;
    for_rows(array, salt, out, [&](int64_t i) {
        const auto at = static_cast<size_t>(indices[i]);
        if (faults[at] != kFine) {
            out.faults[i] = faults[at];
            any_fault = true;
        }
        return keys[at];
    });
}

bool hash_dictionary(const ArrowSchema& schema, const ArrowArray& array, uint64_t salt, size_t max_bytes,
                     const KeyOutput& out, bool& any_fault, std::string& why) {
    const size_t values = static_cast<size_t>(array.dictionary->length);
    std::vector<uint64_t> keys(values);
    std::vector<uint8_t> faults(values, kFine);
    // Only a fault of a value that a row points to counts.
    bool value_fault = false;
    if (!hash_column(*schema.dictionary, *array.dictionary, salt, max_bytes, {keys.data(), 1, faults.data()},
                     value_fault, why)) {
        return false;
    }
    switch (schema.format[0]) {
        case 'c':
            gather_dictionary<int8_t>(array, salt, keys, faults, out, any_fault);
            return true;
        case 'C':
            gather_dictionary<uint8_t>(array, salt, keys, faults, out, any_fault);
            return true;
        case 's':
            gather_dictionary<int16_t>(array, salt, keys, faults, out, any_fault);
            return true;
        case 'S':
            gather_dictionary<uint16_t>(array, salt, keys, faults, out, any_fault);
            return true;
        case 'i':
            gather_dictionary<int32_t>(array, salt, keys, faults, out, any_fault);
            return true;
        case 'I':
            gather_dictionary<uint32_t>(array, salt, keys, faults, out, any_fault);
            return true;
        case 'l':
            gather_dictionary<int64_t>(array, salt, keys, faults, out, any_fault);
            return true;
        case 'L':
            gather_dictionary<uint64_t>(array, salt, keys, faults, out, any_fault);
            return true;
        default:
            why = "a dictionary with indices of format '" + std::string(schema.format) + "'";
            return false;
    }
}

}  // namespace

uint64_t hash_bytes(const uint8_t* bytes, size_t size, uint64_t seed) {
    uint64_t state = mix(seed ^ kSecretA);
    size_t left = size;
    const uint8_t* p = bytes;
    for (; left > 16; left -= 16, p += 16) state = fold(load64(p) ^ kSecretA, load64(p + 8) ^ state);
    uint64_t a = 0;
    uint64_t b = 0;
    if (left >= 8) {
        a = load64(p);
        b = load64(p + left - 8);
    } else if (left >= 4) {
        a = load32(p);
        b = load32(p + left - 4);
    } else if (left > 0) {
        a = p[0] | (uint64_t{p[left >> 1]} << 8) | (uint64_t{p[left - 1]} << 16);
    }
    return mix(fold(a ^ kSecretB, b ^ state) ^ (size * kSecretB));
}

uint64_t string_key(const uint8_t* bytes, size_t size, uint64_t salt) {
    int64_t value;
    if (canonical_integer(bytes, size, value)) return integer_key(value, salt);
    const uint64_t key = hash_bytes(bytes, size, salt);
    return key == kNoRow ? ~uint64_t{0} : key;
}

uint64_t unsigned_key(uint64_t value, uint64_t salt) {
    if (value <= static_cast<uint64_t>(INT64_MAX)) return integer_key(static_cast<int64_t>(value), salt);
    char text[20];
    const auto end = std::to_chars(text, text + sizeof text, value).ptr;
    return string_key(reinterpret_cast<const uint8_t*>(text), static_cast<size_t>(end - text), salt);
}

uint64_t null_key(uint64_t salt) {
    const uint64_t key = mix(mix(salt) ^ kNullMark);
    return key == kNoRow ? ~uint64_t{0} : key;
}

bool hash_column(const ArrowSchema& schema, const ArrowArray& array, uint64_t salt, size_t max_bytes,
                 const KeyOutput& out, bool& any_fault, std::string& why) {
    if (schema.dictionary != nullptr) {
        return hash_dictionary(schema, array, salt, max_bytes, out, any_fault, why);
    }
    const std::string_view format = schema.format;
    if (format == "n") {
        for (int64_t i = 0; i < array.length; ++i) out.keys[i * out.stride] = null_key(salt);
        return true;
    }
    if (format == "b") return hash_booleans(array, salt, out), true;
    if (format == "c") return hash_signed<int8_t>(array, salt, out), true;
    if (format == "C") return hash_unsigned<uint8_t>(array, salt, out), true;
    if (format == "s") return hash_signed<int16_t>(array, salt, out), true;
    if (format == "S") return hash_unsigned<uint16_t>(array, salt, out), true;
    if (format == "i" || format == "tdD" || format == "tts" || format == "ttm") {
        return hash_signed<int32_t>(array, salt, out), true;
    }
    if (format == "I") return hash_unsigned<uint32_t>(array, salt, out), true;
    if (format == "l" || format == "tdm" || format == "ttu" || format == "ttn" || format.starts_with("ts") ||
        format.starts_with("tD")) {
        return hash_signed<int64_t>(array, salt, out), true;
    }
    if (format == "L") return hash_unsigned<uint64_t>(array, salt, out), true;
    if (format == "f") return any_fault |= hash_floats<float>(array, salt, out), true;
    if (format == "g") return any_fault |= hash_floats<double>(array, salt, out), true;
    if (format == "u" || format == "z") {
        return any_fault |= hash_offset_strings<int32_t>(array, salt, max_bytes, out), true;
    }
    if (format == "U" || format == "Z") {
        return any_fault |= hash_offset_strings<int64_t>(array, salt, max_bytes, out), true;
    }
    if (format == "vu" || format == "vz") {
        return any_fault |= hash_view_strings(array, salt, max_bytes, out), true;
    }
    why = "a column of Arrow format '" + std::string(format) + "'";
    return false;
}

}  // namespace onstream
