// Columns that grow value by value, in the layout of Arrow arrays, and from which a broken row can be taken
// back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "text.h"

namespace onstream {

// What one row is read from.
struct Text {
    const uint8_t* data;
    size_t size;
};

enum class ValueKind {
    kNull,
    kBool,
    kInt8,
    kInt16,
    kInt32,
    kInt64,
    kUInt8,
    kUInt16,
    kUInt32,
    kUInt64,
    kFloat,
    kDouble,
    kText,   // any bytes
    kFixed,  // as many bytes as `width` says
    kList,   // of what the only child holds
    kStruct,
    kRaw,  // any value of JSON, as the text that it is, on one line
};

inline size_t width_of(ValueKind kind) {
    switch (kind) {
        case ValueKind::kBool:
        case ValueKind::kInt8:
        case ValueKind::kUInt8:
            return 1;
        case ValueKind::kInt16:
        case ValueKind::kUInt16:
            return 2;
        case ValueKind::kInt32:
        case ValueKind::kUInt32:
        case ValueKind::kFloat:
            return 4;
        case ValueKind::kInt64:
        case ValueKind::kUInt64:
        case ValueKind::kDouble:
            return 8;
        default:
            return 0;
    }
}

struct Column {
    ValueKind kind = ValueKind::kNull;
    size_t width = 0;  // of a value, in bytes; 0 where values have none
    size_t count = 0;
    std::vector<uint32_t> nulls;  // places without a value, ascending
    Bytes values;                 // `width` bytes each (a byte for a kBool), or characters
    Bytes offsets;                // count + 1 of int32: of characters, or of what a child holds
    size_t size = 0;              // of the characters, in bytes
    std::vector<Column> children;

    Column() = default;
    explicit Column(ValueKind of, size_t bytes = 0) : kind(of), width(bytes > 0 ? bytes : width_of(of)) {
        if (has_offsets()) set_offset(0);
    }

    bool is_text() const { return kind == ValueKind::kText || kind == ValueKind::kRaw; }
    bool has_offsets() const { return is_text() || kind == ValueKind::kList; }
    size_t value_bytes() const { return is_text() ? size : count * width; }

    void reserve(size_t rows) {
        if (has_offsets()) offsets.grow_to((rows + 1) * sizeof(int32_t));
        values.grow_to(rows * width);
    }

    // Room for one more value of a fixed width. It counts once `end_value` is called.
    uint8_t* next_value() { return values.grow_to((count + 1) * width) + count * width; }

    template <typename T>
    void append(T value) {
        std::memcpy(next_value(), &value, sizeof(T));
        end_value();
    }

    // Ends the value that was written: characters by `size`, a list by the values of its child.
    void end_value() {
        count += 1;
        if (is_text()) {
            set_offset(size);
        } else if (kind == ValueKind::kList) {
            set_offset(children[0].count);
        }
    }

    void append_null() {
        nulls.push_back(static_cast<uint32_t>(count));
        if (width > 0) std::memset(next_value(), 0, width);
        if (kind == ValueKind::kStruct) {
            for (Column& child : children) child.append_null();
        }
        end_value();
    }

    // Takes back all but the first `rows` values, and what is begun of the next.
    void truncate(size_t rows) {
        count = rows;
        while (!nulls.empty() && nulls.back() >= rows) nulls.pop_back();
        if (is_text()) {
            size = offset(rows);
        } else if (kind == ValueKind::kList) {
            children[0].truncate(offset(rows));
        } else {
            for (Column& child : children) child.truncate(rows);
        }
    }

  private:
    size_t offset(size_t row) const {
        return static_cast<size_t>(reinterpret_cast<const int32_t*>(offsets.data())[row]);
    }

    void set_offset(size_t offset) {
        auto* all = reinterpret_cast<int32_t*>(offsets.grow_to((count + 1) * sizeof(int32_t)));
        all[count] = static_cast<int32_t>(offset);
    }
};

}  // namespace onstream
