// Splitting plain delimited text into columns: no quotes, one row a line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace onstream {

enum class CellKind { kText, kInt8, kInt16, kInt32, kInt64, kDouble };

// Bytes that grow without being set to zero first: every one of them is written once.
class Bytes {
  public:
    uint8_t* grow_to(size_t size) {
        if (size > capacity_) {
            capacity_ = size + size / 2;
            data_.reset(static_cast<uint8_t*>(std::realloc(data_.release(), capacity_)));
            if (data_ == nullptr) throw std::bad_alloc();
        }
        return data_.get();
    }
    uint8_t* data() const { return data_.get(); }
    uint8_t* release() { return data_.release(); }

  private:
    struct Free {
        void operator()(uint8_t* bytes) const { std::free(bytes); }
    };
    std::unique_ptr<uint8_t, Free> data_;
    size_t capacity_ = 0;
};

// One column of the text, in the layout of Arrow arrays.
struct TextColumn {
    size_t index;  // among the columns of a line
    CellKind kind;
    size_t nulls = 0;
    std::vector<uint8_t> validity;  // bitmap; empty without nulls
    Bytes offsets;                  // kText: rows + 1 of int32
    Bytes values;                   // characters, or numbers of the kind's width
    size_t size = 0;                // of the values, in bytes
};

// Splits `rows` lines, each with its line end (the last may lack it), of `num_columns` values between
// delimiters; an empty value is a null. Returns false, and nothing of use, unless every line is plain: ASCII,
// the right number of columns, no blank line, no carriage return, and every number written in the simplest
// way. The caller then takes a slower way.
bool split_text(const uint8_t* text, size_t size, uint8_t delimiter, size_t rows, size_t num_columns,
                std::vector<TextColumn>& columns);

}  // namespace onstream
