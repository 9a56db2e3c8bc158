// The part of the Python module that splits and decodes texts.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "avro.h"
#include "bindings.h"
#include "json.h"
#include "text.h"

using namespace nanobind::literals;

namespace onstream {
namespace {

// Of what is read by recursion.
constexpr int kMaxDepth = 512;

CellKind read_kind(const std::string& name) {
    if (name == "string") return CellKind::kText;
    if (name == "int8") return CellKind::kInt8;
    if (name == "int16") return CellKind::kInt16;
    if (name == "int32") return CellKind::kInt32;
    if (name == "int64") return CellKind::kInt64;
    if (name == "double") return CellKind::kDouble;
    raise("ColumnError", "text cannot be split into values of type '" + name + "'");
}

// A numpy array of bytes that takes over the memory; None when there is none.
nb::object take(Bytes&& from, size_t size) {
    uint8_t* data = from.release();
    if (data == nullptr) return nb::none();
    nb::capsule owner(data, [](void* p) noexcept { std::free(p); });
    return nb::cast(Out<uint8_t>(data, {size}, owner));
}

nb::object split(nb::object text, size_t begin, size_t end, const std::string& delimiter, size_t rows,
                 size_t num_columns, const nb::list& wanted) {
    std::vector<TextColumn> columns;
    for (nb::handle item : wanted) {
        const auto pair = nb::cast<nb::tuple>(item);
        TextColumn column;
        column.index = nb::cast<size_t>(pair[0]);
        column.kind = read_kind(nb::cast<std::string>(pair[1]));
        if (column.index >= num_columns)
            raise("ShapeError", "there is no column " + std::to_string(column.index));
        columns.push_back(std::move(column));
    }
    Py_buffer view;
    if (PyObject_GetBuffer(text.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
    const bool fits = begin <= end && end <= static_cast<size_t>(view.len) && delimiter.size() == 1;
    bool plain = false;
    if (fits) {
        nb::gil_scoped_release release;
        const auto* bytes = static_cast<const uint8_t*>(view.buf);
        plain = split_text(bytes + begin, end - begin, static_cast<uint8_t>(delimiter[0]), rows, num_columns,
                           columns);
    }
    PyBuffer_Release(&view);
    if (!fits) raise("ShapeError", "begin, end or delimiter do not fit the text");
    if (!plain) return nb::none();
    nb::list made;
    for (TextColumn& column : columns) {
        nb::object validity = nb::none();
        if (column.nulls > 0) validity = nb::cast(copy_of(column.validity.data(), column.validity.size()));
        made.append(nb::make_tuple(column.nulls, validity, take(std::move(column.offsets), 4 * (rows + 1)),
                                   take(std::move(column.values), column.size)));
    }
    return made;
}

ValueKind read_value_kind(const std::string& name) {
    static const std::pair<const char*, ValueKind> kKinds[] = {
        {"bool", ValueKind::kBool},     {"int8", ValueKind::kInt8},     {"int16", ValueKind::kInt16},
        {"int32", ValueKind::kInt32},   {"int64", ValueKind::kInt64},   {"uint8", ValueKind::kUInt8},
        {"uint16", ValueKind::kUInt16}, {"uint32", ValueKind::kUInt32}, {"uint64", ValueKind::kUInt64},
        {"float", ValueKind::kFloat},   {"double", ValueKind::kDouble}, {"string", ValueKind::kText},
        {"json", ValueKind::kRaw}};
    for (const auto& [known, kind] : kKinds) {
        if (name == known) return kind;
    }
    raise("ColumnError", "JSON cannot be read into values of type '" + name + "'");
}

// (count, nulls, validity, offsets, values, children) of a column, which is left empty.
nb::tuple take_column(Column& column) {
    nb::object validity = nb::none();
    if (!column.nulls.empty()) {
        std::vector<uint8_t> bits((column.count + 7) / 8, 0xff);
        for (const uint32_t row : column.nulls) bits[row / 8] &= static_cast<uint8_t>(~(1u << (row % 8)));
        validity = nb::cast(copy_of(bits.data(), bits.size()));
    }
    nb::list children;
    for (Column& child : column.children) children.append(take_column(child));
    nb::object offsets = nb::none();
    if (column.has_offsets()) offsets = take(std::move(column.offsets), sizeof(int32_t) * (column.count + 1));
    nb::object values = nb::none();
    if (column.kind == ValueKind::kBool) {
        std::vector<uint8_t> bits((column.count + 7) / 8);
        for (size_t i = 0; i < column.count; ++i)
            bits[i / 8] |= static_cast<uint8_t>((column.values.data()[i] & 1) << (i % 8));
        values = nb::cast(copy_of(bits.data(), bits.size()));
    } else {
        values = take(std::move(column.values), column.value_bytes());
    }
    return nb::make_tuple(column.count, column.nulls.size(), validity, offsets, values, children);
}

// Texts to decode: a sequence of bytes, or one text of which each is a part. They stay while this does.
class Texts {
  public:
    Texts(nb::object texts, const std::optional<In<int64_t>>& starts,
          const std::optional<In<int64_t>>& ends) {
        size_t total = 0;
        if (starts) {
            if (!nb::isinstance<nb::bytes>(texts) || !ends || ends->shape(0) != starts->shape(0))
                raise("ShapeError", "parts of bytes have as many starts as ends");
            owner_ = texts;
            const auto* data = reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(owner_.ptr()));
            total = static_cast<size_t>(PyBytes_GET_SIZE(owner_.ptr()));
            all.reserve(starts->shape(0));
            for (size_t i = 0; i < starts->shape(0); ++i) {
                const int64_t start = starts->data()[i];
                const int64_t end = ends->data()[i];
                if (start < 0 || end < start || static_cast<size_t>(end) > total)
                    raise("ShapeError", "part " + std::to_string(i) + " lies outside the text");
                all.push_back({data + start, static_cast<size_t>(end - start)});
            }
        } else {
            // A tuple holds its texts, whatever other threads do to a list.
            owner_ = nb::steal(PySequence_Tuple(texts.ptr()));
            if (!owner_.is_valid()) throw nb::python_error();
            all.reserve(nb::len(owner_));
            for (nb::handle text : owner_) {
                if (!PyBytes_Check(text.ptr())) raise("ShapeError", "texts must be bytes");
                const auto size = static_cast<size_t>(PyBytes_GET_SIZE(text.ptr()));
                all.push_back({reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(text.ptr())), size});
                total += size;
            }
        }
        // Offsets into strings are int32.
        if (total > std::numeric_limits<int32_t>::max())
            raise("ShapeError",
                  "texts of one call must be smaller than 2 GiB, got " + std::to_string(total) + " bytes");
    }

    std::vector<Text> all;

  private:
    nb::object owner_;
};

// Decodes `texts`: a list of bytes, or one text of which each is a part.
nb::tuple decode_json(nb::object texts, const nb::list& wanted, uint32_t max_depth,
                      std::optional<In<int64_t>> starts, std::optional<In<int64_t>> ends) {
    std::vector<JsonField> fields;
    for (nb::handle item : wanted) {
        const auto field = nb::cast<nb::tuple>(item);
        fields.push_back({nb::cast<std::string>(field[0]), read_value_kind(nb::cast<std::string>(field[1])),
                          nb::cast<bool>(field[2])});
    }
    const Texts found(texts, starts, ends);
    JsonRows made;
    {
        nb::gil_scoped_release release;
        made = read_json(found.all, fields, max_depth);
    }
    nb::list columns;
    for (Column& column : made.columns) columns.append(take_column(column));
    nb::list rejects;
    for (const JsonReject& reject : made.rejects)
        rejects.append(nb::make_tuple(reject.index, static_cast<int>(reject.fault), reject.column));
    return nb::make_tuple(made.rows, columns, rejects);
}

// (kind, wanted, target, size, symbols, children) of a value of Avro.
AvroNode read_avro_node(nb::handle from, int depth) {
    static const std::pair<const char*, AvroKind> kKinds[] = {
        {"null", AvroKind::kNull},   {"boolean", AvroKind::kBoolean}, {"int", AvroKind::kInt},
        {"long", AvroKind::kLong},   {"float", AvroKind::kFloat},     {"double", AvroKind::kDouble},
        {"bytes", AvroKind::kBytes}, {"string", AvroKind::kString},   {"fixed", AvroKind::kFixed},
        {"enum", AvroKind::kEnum},   {"array", AvroKind::kArray},     {"map", AvroKind::kMap},
        {"union", AvroKind::kUnion}, {"record", AvroKind::kRecord}};
    static const std::pair<const char*, ValueKind> kTargets[] = {
        {"", ValueKind::kNull},        {"bool", ValueKind::kBool},   {"int32", ValueKind::kInt32},
        {"int64", ValueKind::kInt64},  {"float", ValueKind::kFloat}, {"double", ValueKind::kDouble},
        {"text", ValueKind::kText},    {"fixed", ValueKind::kFixed}, {"list", ValueKind::kList},
        {"struct", ValueKind::kStruct}};
    if (depth > kMaxDepth) raise("ShapeError", "a schema is nested too deep");
    const auto facts = nb::cast<nb::tuple>(from);
    const auto kind = nb::cast<std::string>(facts[0]);
    const auto target = nb::cast<std::string>(facts[2]);
    const auto* found =
        std::find_if(std::begin(kKinds), std::end(kKinds), [&](auto& k) { return kind == k.first; });
    const auto* aim =
        std::find_if(std::begin(kTargets), std::end(kTargets), [&](auto& k) { return target == k.first; });
    if (found == std::end(kKinds) || aim == std::end(kTargets))
        raise("ShapeError", "there is no kind '" + kind + "' that becomes '" + target + "'");
    AvroNode node;
    node.kind = found->second;
    node.wanted = nb::cast<bool>(facts[1]);
    node.target = aim->second;
    node.size = nb::cast<size_t>(facts[3]);
    for (nb::handle symbol : nb::cast<nb::list>(facts[4]))
        node.symbols.push_back(nb::cast<std::string>(symbol));
    for (nb::handle child : nb::cast<nb::list>(facts[5]))
        node.children.push_back(read_avro_node(child, depth + 1));
    return node;
}

nb::tuple decode_avro(nb::object texts, nb::object record) {
    const AvroNode node = read_avro_node(record, 0);
    if (node.kind != AvroKind::kRecord || !fits(node))
        raise("ShapeError", "the record cannot become columns");
    const Texts found(texts, std::nullopt, std::nullopt);
    AvroRows made;
    {
        nb::gil_scoped_release release;
        made = read_avro(found.all, node);
    }
    nb::list columns;
    for (Column& column : made.columns) columns.append(take_column(column));
    nb::list rejects;
    for (const AvroReject& reject : made.rejects)
        rejects.append(nb::make_tuple(reject.index, static_cast<int>(reject.fault)));
    return nb::make_tuple(made.rows, columns, rejects);
}

}  // namespace

void bind_text(nb::module_& m) {
    m.def("split_text", &split, "text"_a, "begin"_a, "end"_a, "delimiter"_a, "rows"_a, "num_columns"_a,
          "columns"_a);

    m.def("decode_json", &decode_json, "texts"_a, "fields"_a, "max_depth"_a, "starts"_a = nb::none(),
          "ends"_a = nb::none());

    m.def("decode_avro", &decode_avro, "texts"_a, "record"_a);
}

}  // namespace onstream
