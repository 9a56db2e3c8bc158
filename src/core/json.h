// Decoding flat JSON objects into columns: one object a text, one row an object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text.h"

namespace onstream {

enum class JsonKind {
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
    kText,
    kRaw,  // any value, as the JSON text that it is, on one line
};

// One column, in the layout of Arrow arrays. Values are appended; what a bad object has begun is taken back.
struct JsonColumn {
    JsonKind kind = JsonKind::kRaw;
    size_t count = 0;
    std::vector<uint32_t> nulls;           // rows without a value, ascending
    Bytes values;                          // of the kind's width, a byte for a kBool, or characters
    Bytes offsets;                         // count + 1 of int32: of characters, or of elements
    size_t size = 0;                       // of the characters, in bytes
    std::unique_ptr<JsonColumn> elements;  // of lists; `values` is empty then

    size_t value_bytes() const;
    bool has_offsets() const { return elements || kind == JsonKind::kText || kind == JsonKind::kRaw; }
};

struct JsonField {
    std::string name;
    JsonKind kind;
    bool list;
};

enum class JsonFault : uint8_t { kInvalid = 1, kNotObject, kTooDeep, kTwice, kMisfit };

// Why text `index` is no row; `column` says where, for kTwice and kMisfit.
struct JsonReject {
    int64_t index;
    JsonFault fault;
    int32_t column;
};

struct JsonText {
    const uint8_t* data;
    size_t size;
};

struct JsonRows {
    std::vector<JsonColumn> columns;
    std::vector<JsonReject> rejects;
    size_t rows = 0;
};

// Reads each text as one object (RFC 8259, UTF-8). Fields that are not wanted are checked and skipped,
// missing ones are null. The texts together must be smaller than 2 GiB.
JsonRows read_json(const std::vector<JsonText>& texts, const std::vector<JsonField>& fields,
                   uint32_t max_depth);

}  // namespace onstream
