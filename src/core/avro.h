// Decoding binary Avro records into columns: one record a text, one row a record.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "columns.h"

namespace onstream {

enum class AvroKind {
    kNull,
    kBoolean,
    kInt,
    kLong,
    kFloat,
    kDouble,
    kBytes,
    kString,
    kFixed,
    kEnum,
    kArray,
    kMap,
    kUnion,
    kRecord,
};

// How a value is written, and where it goes.
struct AvroNode {
    AvroKind kind = AvroKind::kNull;
    bool wanted = false;                  // else it is checked and skipped
    ValueKind target = ValueKind::kNull;  // of the column that it becomes; of a union, for all branches
    size_t size = 0;                      // of a kFixed, in bytes
    std::vector<std::string> symbols;     // of a kEnum
    std::vector<AvroNode> children;       // fields, branches, or what an array or map holds
};

enum class AvroFault : uint8_t { kShort = 1, kLong, kInvalid, kText };

struct AvroReject {
    int64_t index;
    AvroFault fault;
};

struct AvroRows {
    std::vector<Column> columns;  // of the wanted fields, in their order
    std::vector<AvroReject> rejects;
    size_t rows = 0;
};

// Whether a value can become what is its target, and that of all within it.
bool fits(const AvroNode& node);

// Whether values of arrays all take at least a byte, so that there are never more than the text is long.
bool counts(const AvroNode& node);

// Reads each text as one record (Avro 1.12, "Binary encoding") without a header. Nodes may not be nested
// deeper than the stack takes, and arrays and maps hold values that take at least a byte. The texts together
// must be smaller than 2 GiB.
AvroRows read_avro(const std::vector<Text>& texts, const AvroNode& record);

}  // namespace onstream
