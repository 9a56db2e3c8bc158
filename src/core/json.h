// Decoding flat JSON objects into columns: one object a text, one row an object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "columns.h"

namespace onstream {

struct JsonField {
    std::string name;
    ValueKind kind;
    bool list;
};

enum class JsonFault : uint8_t { kInvalid = 1, kNotObject, kTooDeep, kTwice, kMisfit };

// Why text `index` is no row; `column` says where, for kTwice and kMisfit.
struct JsonReject {
    int64_t index;
    JsonFault fault;
    int32_t column;
};

struct JsonRows {
    std::vector<Column> columns;
    std::vector<JsonReject> rejects;
    size_t rows = 0;
};

// Reads each text as one object (RFC 8259, UTF-8). Fields that are not wanted are checked and skipped,
// missing ones are null. The texts together must be smaller than 2 GiB.
JsonRows read_json(const std::vector<Text>& texts, const std::vector<JsonField>& fields, uint32_t max_depth);

}  // namespace onstream
