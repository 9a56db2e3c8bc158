#include "text.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace onstream {
namespace {

constexpr size_t kBlock = 64;

// One bit a byte of a block, for what ends a value; `plain` turns false at a byte that is not plain text.
struct BlockScan {
    uint64_t ends;
    bool plain;
};

#if defined(__SSE2__)
BlockScan scan_block(const uint8_t* at, uint8_t delimiter) {
    const __m128i delimiters = _mm_set1_epi8(static_cast<char>(delimiter));
    const __m128i newlines = _mm_set1_epi8('\n');
    const __m128i returns = _mm_set1_epi8('\r');
    BlockScan scan{0, true};
    int odd = 0;
    for (size_t part = 0; part < kBlock / 16; ++part) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 16 * part));
        const __m128i hits = _mm_or_si128(_mm_cmpeq_epi8(bytes, delimiters), _mm_cmpeq_epi8(bytes, newlines));
        scan.ends |= static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(hits))) << (16 * part);
        // The sign bit of a byte is set beyond ASCII.
        odd |= _mm_movemask_epi8(_mm_or_si128(bytes, _mm_cmpeq_epi8(bytes, returns)));
    }
    scan.plain = odd == 0;
    return scan;
}
#else
BlockScan scan_block(const uint8_t* at, uint8_t delimiter) {
    BlockScan scan{0, true};
    for (size_t i = 0; i < kBlock; ++i) {
        if (at[i] == delimiter || at[i] == '\n') scan.ends |= uint64_t{1} << i;
        if (at[i] >= 128 || at[i] == '\r') scan.plain = false;
    }
    return scan;
}
#endif

// Finds where values end, some lines at a time, so that a line is decoded while it is in the nearest cache.
class EndScanner {
  public:
    EndScanner(const uint8_t* text, size_t size, uint8_t delimiter, size_t num_columns)
        : text_(text), size_(size), delimiter_(delimiter), num_columns_(num_columns) {}

    // Writes the ends of the values of exactly `rows` lines, as offsets from the beginning of the text.
    bool scan(size_t rows, uint32_t* ends) {
        size_t wanted = rows * num_columns_;
        size_t column = 0;
        while (wanted > 0) {
            if (bits_ == 0 && !next_block()) return false;
            for (; bits_ != 0 && wanted > 0; bits_ &= bits_ - 1) {
                const size_t at = block_ + static_cast<size_t>(std::countr_zero(bits_));
                column += 1;
                if ((at == size_ || text_[at] == '\n') != (column == num_columns_)) return false;
                if (column == num_columns_) column = 0;
                *ends++ = static_cast<uint32_t>(at);
                wanted -= 1;
            }
        }
        return true;
    }

    // Whether no value is left.
    bool done() {
        while (bits_ == 0) {
            if (!next_block()) return plain_;
        }
        return false;
    }

  private:
    bool next_block() {
        if (!plain_ || next_ > size_) return false;
        block_ = next_;
        next_ += kBlock;
        const size_t left = size_ - block_;
        uint8_t tail[kBlock];
        const uint8_t* at = text_ + block_;
        if (left < kBlock) {
            std::memset(tail, 0, kBlock);
            std::memcpy(tail, at, left);
            // The end of the text ends its last line, if that has no line end of its own.
            if (text_[size_ - 1] != '\n') tail[left] = '\n';
            at = tail;
        }
        const BlockScan scan = scan_block(at, delimiter_);
        plain_ = scan.plain;
        bits_ = scan.ends;
        return plain_;
    }

    const uint8_t* text_;
    size_t size_;
    uint8_t delimiter_;
    size_t num_columns_;
    size_t block_ = 0;
    size_t next_ = 0;
    uint64_t bits_ = 0;
    bool plain_ = true;
};

// The values of one column in some lines.
struct Cells {
    const uint8_t* text;
    const uint32_t*
        ends;  // of this column in the first of the lines; before it stands the end of the value before
    size_t stride;
    size_t first;  // row number of the first of the lines
    size_t rows;

    const uint8_t* begin(size_t i) const {
        return text + uint32_t{ends[static_cast<ptrdiff_t>(i * stride) - 1] + 1};
    }
    size_t size(size_t i) const { return static_cast<size_t>(text + ends[i * stride] - begin(i)); }
};

void mark_null(TextColumn& column, size_t row, size_t rows) {
    if (column.nulls == 0) column.validity.assign((rows + 7) / 8, 0xff);
    column.validity[row / 8] &= static_cast<uint8_t>(~(1u << (row % 8)));
    column.nulls += 1;
}

constexpr size_t kShort = 16;

void read_text(const Cells& cells, size_t rows, const uint8_t* text_end, TextColumn& column) {
    auto* offsets = reinterpret_cast<int32_t*>(column.offsets.data()) + cells.first;
    size_t total = column.size;
    for (size_t i = 0; i < cells.rows; ++i) total += cells.size(i);
    // Room to copy a fixed number of bytes, whatever the length: most values are short.
    uint8_t* values = column.values.grow_to(total + kShort);
    size_t at = column.size;
    for (size_t i = 0; i < cells.rows; ++i) {
        const uint8_t* from = cells.begin(i);
        const size_t size = cells.size(i);
        offsets[i] = static_cast<int32_t>(at);
        if (size <= kShort && from + kShort <= text_end) {
            std::memcpy(values + at, from, kShort);
        } else {
            std::memcpy(values + at, from, size);
        }
        if (size == 0) mark_null(column, cells.first + i, rows);
        at += size;
    }
    offsets[cells.rows] = static_cast<int32_t>(at);
    column.size = at;
}

template <typename T>
bool read_numbers(const Cells& cells, size_t rows, TextColumn& column) {
    auto* values = reinterpret_cast<T*>(column.values.data()) + cells.first;
    for (size_t i = 0; i < cells.rows; ++i) {
        const uint8_t* text = cells.begin(i);
        const size_t size = cells.size(i);
        values[i] = 0;
        if (size == 0) {
            mark_null(column, cells.first + i, rows);
            continue;
        }
        // Only what begins and ends with a digit is surely a number to every reader: no "nan", "+1" or "1 ".
        const size_t digit = text[0] == '-' ? 1 : 0;
        if (digit == size || text[digit] - unsigned{'0'} > 9) return false;
        if (text[size - 1] - unsigned{'0'} > 9) return false;
        const char* begin = reinterpret_cast<const char*>(text);
        const auto parsed = std::from_chars(begin, begin + size, values[i]);
        if (parsed.ec != std::errc() || parsed.ptr != begin + size) return false;
    }
    column.size += cells.rows * sizeof(T);
    return true;
}

bool read_column(const Cells& cells, size_t rows, const uint8_t* text_end, TextColumn& column) {
    switch (column.kind) {
        case CellKind::kText:
            read_text(cells, rows, text_end, column);
            return true;
        case CellKind::kInt8:
            return read_numbers<int8_t>(cells, rows, column);
        case CellKind::kInt16:
            return read_numbers<int16_t>(cells, rows, column);
        case CellKind::kInt32:
            return read_numbers<int32_t>(cells, rows, column);
        case CellKind::kInt64:
            return read_numbers<int64_t>(cells, rows, column);
        case CellKind::kDouble:
            return read_numbers<double>(cells, rows, column);
    }
    return false;
}

size_t width(CellKind kind) {
    switch (kind) {
        case CellKind::kInt8:
            return 1;
        case CellKind::kInt16:
            return 2;
        case CellKind::kInt32:
            return 4;
        default:
            return 8;
    }
}

}  // namespace

bool split_text(const uint8_t* text, size_t size, uint8_t delimiter, size_t rows, size_t num_columns,
                std::vector<TextColumn>& columns) {
    if (size == 0 || size >= std::numeric_limits<int32_t>::max() || num_columns == 0) return false;
    // Lines that are decoded together: their text and ends stay in the second-level cache.
    const size_t step = std::max<size_t>(1, 8192 / num_columns);
    std::vector<uint32_t> ends(step * num_columns + 1);
    EndScanner scanner(text, size, delimiter, num_columns);
    for (TextColumn& column : columns) {
        if (column.kind == CellKind::kText) {
            column.offsets.grow_to(sizeof(int32_t) * (rows + 1));
            // An even share of the text, to begin with.
            column.values.grow_to(size / num_columns + kShort);
        } else {
            column.values.grow_to(width(column.kind) * std::max<size_t>(rows, 1));
        }
    }
    // ends[0] is the end before the first value of these lines; before the text it is -1, modulo 2^32.
    ends[0] = ~uint32_t{0};
    for (size_t row = 0; row < rows; row += step) {
        const size_t some = std::min(step, rows - row);
        if (!scanner.scan(some, ends.data() + 1)) return false;
        for (TextColumn& column : columns) {
            const Cells cells{text, ends.data() + 1 + column.index, num_columns, row, some};
            if (!read_column(cells, rows, text + size, column)) return false;
        }
        ends[0] = ends[some * num_columns];
    }
    return scanner.done();
}

}  // namespace onstream
