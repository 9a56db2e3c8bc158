#include "avro.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "json_scan.h"

namespace onstream {
namespace {

// Whether bytes are UTF-8. At least kPadding bytes of any content must follow them.
bool is_utf8(const uint8_t* at, const uint8_t* end) {
    while (at < end) {
        if (*at < 0x80) {
            ++at;
            continue;
        }
        const size_t length = utf8_length(at);
        if (length == 0 || length > static_cast<size_t>(end - at)) return false;
        at += length;
    }
    return true;
}

bool is_ascii(const uint8_t* at, size_t size) {
    uint64_t any = 0;
    for (; size >= 8; at += 8, size -= 8) {
        uint64_t word;
        std::memcpy(&word, at, 8);
        any |= word;
    }
    for (; size > 0; ++at, --size) any |= *at;
    return (any & 0x8080808080808080) == 0;
}

class RecordReader {
  public:
    explicit RecordReader(const AvroNode& record) : record_(record) {}

    AvroFault fault = AvroFault::kInvalid;

    // Reads one record behind what the columns hold.
    bool read(Text text, std::vector<Column>& columns) {
        // UTF-8 is looked at in whole characters, which may reach over the end.
        if (text.size + kPadding > padded_.size()) padded_.resize(2 * text.size + kPadding);
        if (text.size > 0) std::memcpy(padded_.data(), text.data, text.size);
        std::memset(padded_.data() + text.size, 0, kPadding);
        at_ = padded_.data();
        end_ = at_ + text.size;
        fault = AvroFault::kInvalid;
        if (!fields(record_, columns)) return false;
        if (at_ != end_) return fail(AvroFault::kLong);
        return true;
    }

  private:
    bool fail(AvroFault why) {
        fault = why;
        return false;
    }

    size_t left() const { return static_cast<size_t>(end_ - at_); }

    bool fields(const AvroNode& record, std::vector<Column>& columns) {
        size_t next = 0;
        for (const AvroNode& field : record.children) {
            if (!value(field, field.wanted ? &columns[next++] : nullptr)) return false;
        }
        return true;
    }

    // Reads a value into a column, or skips it.
    bool value(const AvroNode& node, Column* to) {
        switch (node.kind) {
            case AvroKind::kNull:
                if (to != nullptr) to->append_null();
                return true;
            case AvroKind::kBoolean:
                if (left() < 1) return fail(AvroFault::kShort);
                if (*at_ > 1) return false;
                if (to != nullptr) to->append(*at_);
                ++at_;
                return true;
            case AvroKind::kInt: {
                int64_t number;
                if (!varint(number)) return false;
                if (number != static_cast<int32_t>(number)) return false;
                if (to != nullptr) append_number(*to, number);
                return true;
            }
            case AvroKind::kLong: {
                int64_t number;
                if (!varint(number)) return false;
                if (to != nullptr) append_number(*to, number);
                return true;
            }
            case AvroKind::kFloat:
                return floating<float>(to);
            case AvroKind::kDouble:
                return floating<double>(to);
            case AvroKind::kBytes:
            case AvroKind::kString: {
                size_t size;
                return length(size) && characters(node.kind == AvroKind::kString, size, to);
            }
            case AvroKind::kFixed:
                if (left() < node.size) return fail(AvroFault::kShort);
                if (to != nullptr) {
                    std::memcpy(to->next_value(), at_, node.size);
                    to->end_value();
                }
                at_ += node.size;
                return true;
            case AvroKind::kEnum: {
                int64_t index;
                if (!varint(index)) return false;
                if (index < 0 || static_cast<uint64_t>(index) >= node.symbols.size()) return false;
                return to == nullptr || append_text(*to, node.symbols[static_cast<size_t>(index)]);
            }
            case AvroKind::kArray:
            case AvroKind::kMap:
                return items(node, to);
            case AvroKind::kUnion: {
                int64_t branch;
                if (!varint(branch)) return false;
                if (branch < 0 || static_cast<uint64_t>(branch) >= node.children.size()) return false;
                return value(node.children[static_cast<size_t>(branch)], to);
            }
            case AvroKind::kRecord:
                if (to == nullptr) {
                    for (const AvroNode& field : node.children) {
                        if (!value(field, nullptr)) return false;
                    }
                    return true;
                }
                if (!fields(node, to->children)) return false;
                to->end_value();
                return true;
        }
        return false;
    }

    // A number in as few bytes as it needs, the sign in the lowest bit.
    bool varint(int64_t& number) {
        uint64_t bits = 0;
        for (int shift = 0; shift < 70; shift += 7) {
            if (at_ == end_) return fail(AvroFault::kShort);
            const uint8_t c = *at_++;
            // The tenth byte holds the last bit only.
            if (shift == 63 && c > 1) return false;
            bits |= static_cast<uint64_t>(c & 0x7f) << shift;
            if (c < 0x80) {
                number = static_cast<int64_t>(bits >> 1 ^ (~(bits & 1) + 1));
                return true;
            }
        }
        return false;
    }

    bool length(size_t& size) {
        int64_t number;
        if (!varint(number)) return false;
        if (number < 0) return false;
        size = static_cast<size_t>(number);
        return size <= left() || fail(AvroFault::kShort);
    }

    bool characters(bool text, size_t size, Column* to) {
        if (text && !is_ascii(at_, size) && !is_utf8(at_, at_ + size)) return fail(AvroFault::kText);
        if (to != nullptr) {
            uint8_t* into = to->values.grow_to(to->size + size + kPadding) + to->size;
            // Most strings are short, and a copy of a fixed size is fast.
            if (size <= kPadding)
                std::memcpy(into, at_, kPadding);
            else
                std::memcpy(into, at_, size);
            to->size += size;
            to->end_value();
        }
        at_ += size;
        return true;
    }

    template <typename T>
    bool floating(Column* to) {
        static_assert(std::endian::native == std::endian::little);
        if (left() < sizeof(T)) return fail(AvroFault::kShort);
        if (to != nullptr) {
            T number;
            std::memcpy(&number, at_, sizeof(T));
            if (to->kind == ValueKind::kDouble)
                to->append(static_cast<double>(number));
            else
                to->append(number);
        }
        at_ += sizeof(T);
        return true;
    }

    static void append_number(Column& to, int64_t number) {
        switch (to.kind) {
            case ValueKind::kInt32:
                to.append(static_cast<int32_t>(number));
                break;
            case ValueKind::kFloat:
                to.append(static_cast<float>(number));
                break;
            case ValueKind::kDouble:
                to.append(static_cast<double>(number));
                break;
            default:
                to.append(number);
        }
    }

    static bool append_text(Column& to, const std::string& text) {
        // A symbol can be longer than its index, so that the size of the texts says nothing of these.
        if (to.size + text.size() > std::numeric_limits<int32_t>::max()) return false;
        if (!text.empty())
            std::memcpy(to.values.grow_to(to.size + text.size()) + to.size, text.data(), text.size());
        to.size += text.size();
        to.end_value();
        return true;
    }

    // Blocks of values; a negative count is followed by the size of the block.
    bool items(const AvroNode& node, Column* to) {
        while (true) {
            int64_t count;
            if (!varint(count)) return false;
            if (count == 0) break;
            if (count < 0) {
                size_t size;
                if (count == std::numeric_limits<int64_t>::min() || !length(size)) return false;
                count = -count;
            }
            // Every value takes a byte.
            if (static_cast<uint64_t>(count) > left()) return fail(AvroFault::kShort);
            for (; count > 0; --count) {
                if (node.kind == AvroKind::kMap) {
                    size_t size;
                    Column* pair = to == nullptr ? nullptr : &to->children[0];
                    if (!length(size) ||
                        !characters(true, size, pair == nullptr ? nullptr : &pair->children[0]))
                        return false;
                    if (!value(node.children[0], pair == nullptr ? nullptr : &pair->children[1]))
                        return false;
                    if (pair != nullptr) pair->end_value();
                } else if (!value(node.children[0], to == nullptr ? nullptr : &to->children[0])) {
                    return false;
                }
            }
        }
        if (to != nullptr) to->end_value();
        return true;
    }

    const AvroNode& record_;
    std::vector<uint8_t> padded_;
    const uint8_t* at_ = nullptr;
    const uint8_t* end_ = nullptr;
};

Column column_of(const AvroNode& node) {
    // The branch that is not null says what a union's column holds.
    if (node.kind == AvroKind::kUnion &&
        (node.target == ValueKind::kList || node.target == ValueKind::kStruct ||
         node.target == ValueKind::kFixed)) {
        for (const AvroNode& branch : node.children) {
            if (branch.kind != AvroKind::kNull) return column_of(branch);
        }
    }
    Column column(node.target, node.target == ValueKind::kFixed ? node.size : 0);
    if (node.kind == AvroKind::kArray) {
        column.children.push_back(column_of(node.children[0]));
    } else if (node.kind == AvroKind::kMap) {
        Column pair(ValueKind::kStruct);
        pair.children.emplace_back(ValueKind::kText);
        pair.children.push_back(column_of(node.children[0]));
        column.children.push_back(std::move(pair));
    } else if (node.kind == AvroKind::kRecord) {
        for (const AvroNode& field : node.children) {
            if (field.wanted) column.children.push_back(column_of(field));
        }
    }
    return column;
}

// How many bytes a value takes at least.
size_t least_bytes(const AvroNode& node) {
    size_t sum = 0;
    switch (node.kind) {
        case AvroKind::kNull:
            return 0;
        case AvroKind::kFixed:
            return node.size;
        case AvroKind::kRecord:
            for (const AvroNode& field : node.children) sum += least_bytes(field);
            return sum;
        default:
            return 1;
    }
}

}  // namespace

bool fits(const AvroNode& node) {
    const auto one_of = [&](std::initializer_list<ValueKind> kinds) {
        return std::find(kinds.begin(), kinds.end(), node.target) != kinds.end();
    };
    const size_t inner = node.children.size();
    switch (node.kind) {
        case AvroKind::kNull:
            return one_of({ValueKind::kNull});
        case AvroKind::kBoolean:
            return one_of({ValueKind::kBool});
        case AvroKind::kInt:
            return one_of({ValueKind::kInt32, ValueKind::kInt64, ValueKind::kFloat, ValueKind::kDouble});
        case AvroKind::kLong:
            return one_of({ValueKind::kInt64, ValueKind::kFloat, ValueKind::kDouble});
        case AvroKind::kFloat:
            return one_of({ValueKind::kFloat, ValueKind::kDouble});
        case AvroKind::kDouble:
            return one_of({ValueKind::kDouble});
        case AvroKind::kBytes:
        case AvroKind::kString:
        case AvroKind::kEnum:
            return one_of({ValueKind::kText});
        case AvroKind::kFixed:
            return one_of({ValueKind::kFixed}) && node.size > 0;
        case AvroKind::kArray:
        case AvroKind::kMap:
            return one_of({ValueKind::kList}) && inner == 1 && fits(node.children[0]) && counts(node);
        case AvroKind::kRecord:
            return one_of({ValueKind::kStruct}) &&
                   std::all_of(node.children.begin(), node.children.end(), [](const AvroNode& field) {
                       return field.wanted ? fits(field) : counts(field);
                   });
        case AvroKind::kUnion:
            break;
    }
    // Branches write to one column, so those that have a layout of their own stand alone beside null.
    size_t values = 0;
    for (const AvroNode& branch : node.children) {
        if (branch.kind == AvroKind::kNull) continue;
        values += 1;
        if (branch.target != node.target || !fits(branch)) return false;
    }
    return values == 0 ? one_of({ValueKind::kNull})
                       : values == 1 || !one_of({ValueKind::kFixed, ValueKind::kList, ValueKind::kStruct});
}

bool counts(const AvroNode& node) {
    if (node.kind == AvroKind::kArray || node.kind == AvroKind::kMap) {
        if (node.children.size() != 1) return false;
        if (node.kind == AvroKind::kArray && least_bytes(node.children[0]) == 0) return false;
    }
    return std::all_of(node.children.begin(), node.children.end(), counts);
}

AvroRows read_avro(const std::vector<Text>& texts, const AvroNode& record) {
    AvroRows made;
    for (const AvroNode& field : record.children) {
        if (!field.wanted) continue;
        made.columns.push_back(column_of(field));
        made.columns.back().reserve(texts.size());
    }
    RecordReader reader(record);
    for (size_t i = 0; i < texts.size(); ++i) {
        if (reader.read(texts[i], made.columns)) {
            made.rows += 1;
            continue;
        }
        for (Column& column : made.columns) column.truncate(made.rows);
        made.rejects.push_back({static_cast<int64_t>(i), reader.fault});
    }
    return made;
}

}  // namespace onstream
