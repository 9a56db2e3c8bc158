// Reading the strings and numbers of JSON (RFC 8259), to be inlined where values are read.
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <system_error>
#include <type_traits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace onstream {

// A text is copied to where this many zeros follow it: nothing in JSON goes on after a zero, so no loop needs
// to know where the text ends, and 16 bytes can be loaded from everywhere.
inline constexpr size_t kPadding = 16;

inline constexpr uint8_t kSpace = 1, kDigit = 2;

struct CharacterClasses {
    uint8_t of[256] = {};
    constexpr CharacterClasses() {
        for (const char c : {' ', '\t', '\n', '\r'}) of[static_cast<uint8_t>(c)] = kSpace;
        for (uint8_t c = '0'; c <= '9'; ++c) of[c] = kDigit;
    }
};
inline constexpr CharacterClasses kClasses;

inline bool is_space(uint8_t c) { return kClasses.of[c] == kSpace; }
inline bool is_digit(uint8_t c) { return kClasses.of[c] == kDigit; }

// Whether any of 16 bytes ends a run of plain characters of a string, one bit a byte: a quote, a backslash, a
// control character, or a byte beyond ASCII.
#if defined(__SSE2__)
inline uint32_t specials(const uint8_t* at) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    const __m128i quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
    const __m128i backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
    // As signed numbers, bytes beyond ASCII are negative.
    const __m128i odd = _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20));
    return static_cast<uint32_t>(_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), odd)));
}
#else
inline uint32_t specials(const uint8_t* at) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < 16; ++i) {
        if (at[i] == '"' || at[i] == '\\' || at[i] < 0x20 || at[i] >= 0x80) found |= uint32_t{1} << i;
    }
    return found;
}
#endif

// The length of the UTF-8 sequence of a character beyond ASCII; 0 if there is none (Unicode 15, table 3-7).
inline size_t utf8_length(const uint8_t* at) {
    const auto continues = [](uint8_t c) { return (c & 0xc0) == 0x80; };
    const uint8_t c = at[0];
    if (c >= 0xc2 && c <= 0xdf) return continues(at[1]) ? 2 : 0;
    if (c >= 0xe0 && c <= 0xef) {
        const uint8_t low = c == 0xe0 ? 0xa0 : 0x80;
        const uint8_t high = c == 0xed ? 0x9f : 0xbf;
        return at[1] >= low && at[1] <= high && continues(at[2]) ? 3 : 0;
    }
    if (c >= 0xf0 && c <= 0xf4) {
        const uint8_t low = c == 0xf0 ? 0x90 : 0x80;
        const uint8_t high = c == 0xf4 ? 0x8f : 0xbf;
        return at[1] >= low && at[1] <= high && continues(at[2]) && continues(at[3]) ? 4 : 0;
    }
    return 0;
}

inline uint8_t* write_utf8(uint32_t c, uint8_t* to) {
    if (c < 0x80) {
        *to++ = static_cast<uint8_t>(c);
    } else if (c < 0x800) {
        *to++ = static_cast<uint8_t>(0xc0 | c >> 6);
        *to++ = static_cast<uint8_t>(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *to++ = static_cast<uint8_t>(0xe0 | c >> 12);
        *to++ = static_cast<uint8_t>(0x80 | (c >> 6 & 0x3f));
        *to++ = static_cast<uint8_t>(0x80 | (c & 0x3f));
    } else {
        *to++ = static_cast<uint8_t>(0xf0 | c >> 18);
        *to++ = static_cast<uint8_t>(0x80 | (c >> 12 & 0x3f));
        *to++ = static_cast<uint8_t>(0x80 | (c >> 6 & 0x3f));
        *to++ = static_cast<uint8_t>(0x80 | (c & 0x3f));
    }
    return to;
}

inline bool read_hex(const uint8_t* at, uint32_t& value) {
    value = 0;
    for (int i = 0; i < 4; ++i) {
        const uint8_t c = at[i];
        uint32_t digit;
        if (is_digit(c)) {
            digit = c - uint32_t{'0'};
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            digit = (c | 0x20) - uint32_t{'a'} + 10;
        } else {
            return false;
        }
        value = value << 4 | digit;
    }
    return true;
}

// Reads what follows a backslash; returns the byte after it, null if it is no escape.
inline const uint8_t* read_escape(const uint8_t* at, uint8_t*& to) {
    static constexpr char kFrom[] = "\"\\/bfnrt";
    static constexpr char kTo[] = "\"\\/\b\f\n\r\t";
    if (*at != 'u') {
        const char* found = *at == 0 ? nullptr : std::strchr(kFrom, *at);
        if (found == nullptr) return nullptr;
        *to++ = static_cast<uint8_t>(kTo[found - kFrom]);
        return at + 1;
    }
    uint32_t c;
    if (!read_hex(at + 1, c)) return nullptr;
    at += 5;
    if (c >= 0xd800 && c <= 0xdfff) {
        uint32_t low;
        if (c >= 0xdc00 || at[0] != '\\' || at[1] != 'u' || !read_hex(at + 2, low)) return nullptr;
        if (low < 0xdc00 || low > 0xdfff) return nullptr;
        c = 0x10000 + ((c - 0xd800) << 10 | (low - 0xdc00));
        at += 6;
    }
    to = write_utf8(c, to);
    return at;
}

// Copies the string whose first character is `at` without its escapes, and moves `to` to its end. Returns the
// byte after the closing quote; null if it is no string. `to` needs room for the rest of the text and the
// padding: an escape is never shorter than what it stands for.
inline const uint8_t* copy_string(const uint8_t* at, uint8_t*& to) {
    while (true) {
        const uint32_t found = specials(at);
        std::memcpy(to, at, 16);
        if (found == 0) {
            at += 16;
            to += 16;
            continue;
        }
        const int plain = std::countr_zero(found);
        at += plain;
        to += plain;
        if (*at == '"') return at + 1;
        if (*at == '\\') {
            at = read_escape(at + 1, to);
            if (at == nullptr) return nullptr;
        } else {
            const size_t length = utf8_length(at);
            if (length == 0) return nullptr;
            std::memcpy(to, at, length);
            at += length;
            to += length;
        }
    }
}

inline const uint8_t* skip_string(const uint8_t* at) {
    uint8_t character[kPadding];
    while (true) {
        const uint32_t found = specials(at);
        if (found == 0) {
            at += 16;
            continue;
        }
        at += std::countr_zero(found);
        if (*at == '"') return at + 1;
        if (*at == '\\') {
            uint8_t* to = character;
            at = read_escape(at + 1, to);
            if (at == nullptr) return nullptr;
        } else {
            const size_t length = utf8_length(at);
            if (length == 0) return nullptr;
            at += length;
        }
    }
}

// A number as it is written: (-1)^negative * digits * 10^exponent, if `exact`; else only its place is known.
struct Number {
    const uint8_t* begin;
    const uint8_t* end;
    uint64_t digits = 0;
    int64_t exponent = 0;
    bool negative = false;
    bool whole = true;  // no point and no exponent
    bool exact = true;  // all digits are in `digits`
};

// Reads a number by the grammar of JSON. Returns false if there is none.
inline bool scan_number(const uint8_t* at, Number& number) {
    number.begin = at;
    if (*at == '-') {
        number.negative = true;
        ++at;
    }
    if (!is_digit(*at)) return false;
    const uint8_t* first = at;
    uint64_t digits = 0;
    // Wraps beyond 19 digits, which is told below.
    while (is_digit(*at)) digits = 10 * digits + (*at++ - uint64_t{'0'});
    if (*first == '0' && at - first > 1) return false;
    ptrdiff_t length = at - first;
    if (*at == '.') {
        const uint8_t* fraction = ++at;
        while (is_digit(*at)) digits = 10 * digits + (*at++ - uint64_t{'0'});
        if (at == fraction) return false;
        number.whole = false;
        number.exponent = fraction - at;
        length += at - fraction;
    }
    if ((*at | 0x20) == 'e') {
        ++at;
        const bool negative = *at == '-';
        if (*at == '-' || *at == '+') ++at;
        if (!is_digit(*at)) return false;
        int64_t exponent = 0;
        // Texts are smaller than 2 GiB, so no number of zeros makes up for such an exponent.
        for (; is_digit(*at); ++at)
            exponent = std::min<int64_t>(10 * exponent + (*at - '0'), int64_t{1} << 40);
        number.exponent += negative ? -exponent : exponent;
        number.whole = false;
    }
    number.digits = digits;
    number.exact = length <= 19;
    number.end = at;
    return true;
}

template <typename T>
inline bool to_integer(const Number& number, T& value) {
    if (!number.whole) return false;
    if (!number.exact) {
        const auto* begin = reinterpret_cast<const char*>(number.begin);
        const auto* end = reinterpret_cast<const char*>(number.end);
        const auto parsed = std::from_chars(begin, end, value);
        return parsed.ec == std::errc() && parsed.ptr == end;
    }
    constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<T>::max());
    if (number.negative) {
        constexpr uint64_t kMin = std::is_signed_v<T> ? kMax + 1 : 0;
        if (number.digits > kMin) return false;
        value = static_cast<T>(uint64_t{0} - number.digits);
    } else {
        if (number.digits > kMax) return false;
        value = static_cast<T>(number.digits);
    }
    return true;
}

template <typename T>
inline bool to_floating(const Number& number, T& value) {
    static constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                         1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                         1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    constexpr bool kDouble = sizeof(T) == 8;
    constexpr uint64_t kMaxDigits = uint64_t{1} << (kDouble ? 53 : 24);
    constexpr int64_t kMaxPower = kDouble ? 22 : 10;
    // Both factors are exact, so the one operation rounds as the number itself does (Clinger, How to Read
    // Floating Point Numbers Accurately, 1990, section 5).
    if (number.exact && number.digits <= kMaxDigits && number.exponent >= -kMaxPower &&
        number.exponent <= kMaxPower) {
        T made = static_cast<T>(number.digits);
        if (number.exponent < 0)
            made /= static_cast<T>(kPowers[-number.exponent]);
        else
            made *= static_cast<T>(kPowers[number.exponent]);
        value = number.negative ? -made : made;
        return true;
    }
    if (number.exact && number.digits == 0) {
        value = number.negative ? -T{0} : T{0};
        return true;
    }
    const auto* begin = reinterpret_cast<const char*>(number.begin);
    const auto* end = reinterpret_cast<const char*>(number.end);
    const auto parsed = std::from_chars(begin, end, value);
    if (parsed.ec != std::errc::result_out_of_range) return parsed.ec == std::errc() && parsed.ptr == end;
    // Too large is no number; too small is zero. The first digit that is not 0 tells which.
    const uint8_t* at = number.begin + number.negative;
    int64_t power = 0;
    const uint8_t* point = at;
    while (is_digit(*point)) ++point;
    while (*at == '0' || *at == '.') ++at;
    power = at < point ? point - at : point - at + 1;
    int64_t written = number.exponent;
    if (*point == '.') {
        const uint8_t* last = point + 1;
        while (is_digit(*last)) written += 1, ++last;
    }
    if (power + written > 0) return false;
    value = number.negative ? -T{0} : T{0};
    return true;
}

}  // namespace onstream
