#include "json.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>
#include <unordered_map>

#include "json_scan.h"

namespace onstream {
namespace {

// Reads objects into columns, one after the other.
class ObjectReader {
  public:
    ObjectReader(const std::vector<JsonField>& fields, size_t rows, uint32_t max_depth)
        : fields_(fields), max_depth_(max_depth) {
        for (const JsonField& field : fields) {
            places_.emplace(field.name, static_cast<int32_t>(places_.size()));
            Column column(field.list ? ValueKind::kList : field.kind);
            if (field.list) column.children.emplace_back(field.kind);
            column.reserve(rows);
            columns.push_back(std::move(column));
        }
    }

    std::vector<Column> columns;

    // Reads one object as row `row`. False if it is none; then nothing of it is left, and `fault` and `where`
    // say why.
    bool read(Text text, size_t row) {
        if (text.size + kPadding > padded_.size()) padded_.resize(2 * text.size + kPadding);
        // An empty text may be a null pointer, which memcpy does not take.
        if (text.size > 0) std::memcpy(padded_.data(), text.data, text.size);
        std::memset(padded_.data() + text.size, 0, kPadding);
        begin_ = padded_.data();
        end_ = begin_ + text.size;
        row_ = row;
        fault = JsonFault::kInvalid;
        twice_ = misfit_ = kNowhere;
        const uint8_t* at = object();
        if (at != nullptr && twice_ == kNowhere && misfit_ == kNowhere) {
            for (Column& column : columns) {
                if (column.count == row) column.append_null();
            }
            return true;
        }
        if (at != nullptr) {
            fault = twice_ == kNowhere ? JsonFault::kMisfit : JsonFault::kTwice;
            where = twice_ == kNowhere ? misfit_ : twice_;
        } else {
            where = -1;
        }
        for (Column& column : columns) column.truncate(row);
        return false;
    }

    JsonFault fault = JsonFault::kInvalid;
    int32_t where = -1;

  private:
    static constexpr int32_t kNowhere = std::numeric_limits<int32_t>::max();

    // What stood at some place of the object before: its name with quote and colon, and its column (-1:
    // none).
    struct Slot {
        std::string text;  // empty: nothing is known of this place
        int32_t column = -1;
    };

    const uint8_t* spaces(const uint8_t* at) const {
        while (is_space(*at)) ++at;
        return at;
    }

    // Reads the whole text; returns its end, or null.
    const uint8_t* object() {
        const uint8_t* at = spaces(begin_);
        if (*at != '{') {
            at = skip_value(at, 1);
            if (at != nullptr && spaces(at) == end_) fault = JsonFault::kNotObject;
            return nullptr;
        }
        at = spaces(at + 1);
        if (*at == '}') return finished(at + 1);
        for (size_t slot = 0;; ++slot) {
            int32_t column;
            at = key(at, slot, column);
            if (at == nullptr) return nullptr;
            at = spaces(at);
            at = column < 0 ? skip_value(at, 2) : value(at, column);
            if (at == nullptr) return nullptr;
            if (*at != ',') {
                at = spaces(at);
                if (*at == '}') return finished(at + 1);
                if (*at != ',') return nullptr;
            }
            at = spaces(at + 1);
        }
    }

    const uint8_t* finished(const uint8_t* at) const {
        at = spaces(at);
        return at == end_ ? at : nullptr;
    }

    // Reads a name and its colon. Objects of one stream mostly have the same names in the same order.
    const uint8_t* key(const uint8_t* at, size_t place, int32_t& column) {
        if (*at != '"') return nullptr;
        ++at;
        if (place < slots_.size()) {
            const std::string& text = slots_[place].text;
            if (!text.empty() && static_cast<size_t>(end_ - at) >= text.size() &&
                std::memcmp(at, text.data(), text.size()) == 0) {
                column = slots_[place].column;
                return at + text.size();
            }
        }
        if (static_cast<size_t>(end_ - at) + 2 * kPadding > name_.size())
            name_.resize(static_cast<size_t>(end_ - at) + 2 * kPadding);
        uint8_t* to = name_.data();
        const uint8_t* after = copy_string(at, to);
        if (after == nullptr) return nullptr;
        const std::string_view name(reinterpret_cast<const char*>(name_.data()),
                                    static_cast<size_t>(to - name_.data()));
        const auto found = places_.find(name);
        column = found == places_.end() ? -1 : found->second;
        const bool as_written = after - at == to - name_.data() + 1;
        const uint8_t* colon = spaces(after);
        if (*colon != ':') return nullptr;
        if (as_written && name.size() <= kMaxSlotBytes && place < kMaxSlots) {
            if (place >= slots_.size()) slots_.resize(place + 1);
            // With the spaces between name and colon, if there are any.
            slots_[place] = {
                std::string(reinterpret_cast<const char*>(at), static_cast<size_t>(colon + 1 - at)), column};
        }
        return colon + 1;
    }

    // Reads a value into a column, or skips it when it does not fit.
    const uint8_t* value(const uint8_t* at, int32_t place) {
        Column& column = columns[static_cast<size_t>(place)];
        if (column.count != row_) {
            twice_ = std::min(twice_, place);
            return skip_value(at, 2);
        }
        if (column.kind != ValueKind::kList) return scalar(at, column, place, 2);
        if (*at != '[') return null_or_misfit(at, column, place, 2);
        if (max_depth_ < 2) return too_deep();
        at = spaces(at + 1);
        if (*at == ']') {
            ++at;
        } else {
            while (true) {
                at = scalar(at, column.children[0], place, 3);
                if (at == nullptr) return nullptr;
                at = spaces(at);
                if (*at == ']') {
                    ++at;
                    break;
                }
                if (*at != ',') return nullptr;
                at = spaces(at + 1);
            }
        }
        column.end_value();
        return at;
    }

    const uint8_t* scalar(const uint8_t* at, Column& column, int32_t place, uint32_t depth) {
        switch (column.kind) {
            case ValueKind::kText:
                return text(at, column, place, depth);
            case ValueKind::kRaw:
                return raw(at, column, place, depth);
            case ValueKind::kBool:
                return truth(at, column, place, depth);
            case ValueKind::kInt8:
                return number<int8_t>(at, column, place, depth);
            case ValueKind::kInt16:
                return number<int16_t>(at, column, place, depth);
            case ValueKind::kInt32:
                return number<int32_t>(at, column, place, depth);
            case ValueKind::kInt64:
                return number<int64_t>(at, column, place, depth);
            case ValueKind::kUInt8:
                return number<uint8_t>(at, column, place, depth);
            case ValueKind::kUInt16:
                return number<uint16_t>(at, column, place, depth);
            case ValueKind::kUInt32:
                return number<uint32_t>(at, column, place, depth);
            case ValueKind::kUInt64:
                return number<uint64_t>(at, column, place, depth);
            case ValueKind::kFloat:
                return number<float>(at, column, place, depth);
            case ValueKind::kDouble:
                return number<double>(at, column, place, depth);
            default:
                return nullptr;
        }
    }

    const uint8_t* text(const uint8_t* at, Column& column, int32_t place, uint32_t depth) {
        if (*at != '"') return null_or_misfit(at, column, place, depth);
        ++at;
        auto room = static_cast<size_t>(end_ - at);
        // Most strings are a small part of a small text; of a large one, every column would reserve all that
        // is left.
        if (room > kSmall) {
            const uint8_t* after = skip_string(at);
            if (after == nullptr) return nullptr;
            room = static_cast<size_t>(after - at);
        }
        uint8_t* begin = column.values.grow_to(column.size + room + 2 * kPadding);
        uint8_t* to = begin + column.size;
        at = copy_string(at, to);
        if (at == nullptr) return nullptr;
        column.size = static_cast<size_t>(to - begin);
        column.end_value();
        return at;
    }

    // Any value but null, on one line. Line ends in valid JSON are never inside a string.
    const uint8_t* raw(const uint8_t* at, Column& column, int32_t place, uint32_t depth) {
        if (*at == 'n') return null_or_misfit(at, column, place, depth);
        const uint8_t* after = skip_value(at, depth);
        if (after == nullptr) return nullptr;
        const auto size = static_cast<size_t>(after - at);
        uint8_t* to = column.values.grow_to(column.size + size) + column.size;
        for (size_t i = 0; i < size; ++i) to[i] = is_space(at[i]) ? uint8_t{' '} : at[i];
        column.size += size;
        column.end_value();
        return after;
    }

    const uint8_t* truth(const uint8_t* at, Column& column, int32_t place, uint32_t depth) {
        const bool yes = word(at, "true");
        if (!yes && !word(at, "false")) return null_or_misfit(at, column, place, depth);
        *column.next_value() = yes ? 1 : 0;
        column.end_value();
        return at + (yes ? 4 : 5);
    }

    template <typename T>
    const uint8_t* number(const uint8_t* at, Column& column, int32_t place, uint32_t depth) {
        if (*at != '-' && !is_digit(*at)) return null_or_misfit(at, column, place, depth);
        Number number;
        if (!scan_number(at, number)) return nullptr;
        T value{};
        bool fits;
        if constexpr (std::is_integral_v<T>)
            fits = to_integer(number, value);
        else
            fits = to_floating(number, value);
        if (!fits) misfit_ = std::min(misfit_, place);
        column.append(value);
        return number.end;
    }

    const uint8_t* null_or_misfit(const uint8_t* at, Column& column, int32_t place, uint32_t depth) {
        column.append_null();
        if (word(at, "null")) return at + 4;
        misfit_ = std::min(misfit_, place);
        return skip_value(at, depth);
    }

    // The padding keeps this inside the memory of the text.
    static bool word(const uint8_t* at, std::string_view text) {
        return std::memcmp(at, text.data(), text.size()) == 0;
    }

    const uint8_t* too_deep() {
        fault = JsonFault::kTooDeep;
        return nullptr;
    }

    // Returns where a value of nesting depth `depth` (that of an object which is the whole text is 1) ends,
    // null if it is none.
    const uint8_t* skip_value(const uint8_t* at, uint32_t depth) {
        switch (*at) {
            case '"':
                return skip_string(at + 1);
            case '{':
                return skip_members(at + 1, depth, '}');
            case '[':
                return skip_members(at + 1, depth, ']');
            case 't':
                return word(at, "true") ? at + 4 : nullptr;
            case 'f':
                return word(at, "false") ? at + 5 : nullptr;
            case 'n':
                return word(at, "null") ? at + 4 : nullptr;
            default:
                break;
        }
        Number number;
        return scan_number(at, number) ? number.end : nullptr;
    }

    const uint8_t* skip_members(const uint8_t* at, uint32_t depth, uint8_t close) {
        if (depth > max_depth_) return too_deep();
        at = spaces(at);
        if (*at == close) return at + 1;
        while (true) {
            if (close == '}') {
                if (*at != '"') return nullptr;
                at = skip_string(at + 1);
                if (at == nullptr) return nullptr;
                at = spaces(at);
                if (*at != ':') return nullptr;
                at = spaces(at + 1);
            }
            at = skip_value(at, depth + 1);
            if (at == nullptr) return nullptr;
            at = spaces(at);
            if (*at == close) return at + 1;
            if (*at != ',') return nullptr;
            at = spaces(at + 1);
        }
    }

    static constexpr size_t kSmall = 4096;
    static constexpr size_t kMaxSlots = 4096;
    static constexpr size_t kMaxSlotBytes = 1024;

    struct Hash {
        using is_transparent = void;
        size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
    };

    const std::vector<JsonField>& fields_;
    const uint32_t max_depth_;
    std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> places_;
    std::vector<Slot> slots_;
    std::vector<uint8_t> padded_;
    std::vector<uint8_t> name_;
    const uint8_t* begin_ = nullptr;
    const uint8_t* end_ = nullptr;
    size_t row_ = 0;
    int32_t twice_ = kNowhere;
    int32_t misfit_ = kNowhere;
};

}  // namespace

JsonRows read_json(const std::vector<Text>& texts, const std::vector<JsonField>& fields, uint32_t max_depth) {
    ObjectReader reader(fields, texts.size(), max_depth);
    JsonRows made;
    for (size_t i = 0; i < texts.size(); ++i) {
        if (reader.read(texts[i], made.rows))
            made.rows += 1;
        else
            made.rejects.push_back({static_cast<int64_t>(i), reader.fault, reader.where});
    }
    made.columns = std::move(reader.columns);
    return made;
}

}  // namespace onstream
