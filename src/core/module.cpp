// The Python module `onstream.core`: arrays in, arrays out, the GIL released while C++ works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "avro.h"
#include "hash.h"
#include "json.h"
#include "table.h"
#include "text.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace onstream {
namespace {

// Of what is read by recursion.
constexpr int kMaxDepth = 512;

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;  // (n,)
template <typename T>
using In2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;  // (n, width)
template <typename T>
using Out = nb::ndarray<nb::numpy, T>;

[[noreturn]] void raise(const char* error, const std::string& text) {
    nb::object type = nb::module_::import_("onstream.errors").attr(error);
    PyErr_SetString(type.ptr(), text.c_str());
    throw nb::python_error();
}

// A new numpy array that owns its memory, which is not initialised.
template <typename T>
Out<T> make(std::initializer_list<size_t> shape) {
    size_t n = 1;
    for (const size_t s : shape) n *= s;
    auto* data = new T[n > 0 ? n : 1];
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return Out<T>(data, shape, owner);
}

template <typename T>
Out<T> copy_of(const T* from, size_t n) {
    Out<T> made = make<T>({n});
    std::copy(from, from + n, made.data());
    return made;
}

nb::object hash_arrow(nb::object column, uint64_t salt,
                      nb::ndarray<uint64_t, nb::ndim<1>, nb::device::cpu> out, size_t max_bytes) {
    if (!nb::hasattr(column, "__arrow_c_array__")) {
        raise("ColumnError",
              "expected an Arrow array, got " + nb::cast<std::string>(nb::repr(column.type())));
    }
    nb::tuple capsules = nb::cast<nb::tuple>(column.attr("__arrow_c_array__")());
    auto* schema = static_cast<ArrowSchema*>(PyCapsule_GetPointer(capsules[0].ptr(), "arrow_schema"));
    auto* array = static_cast<ArrowArray*>(PyCapsule_GetPointer(capsules[1].ptr(), "arrow_array"));
    if (schema == nullptr || array == nullptr) throw nb::python_error();
    const size_t rows = static_cast<size_t>(array->length);
    if (out.shape(0) != rows) {
        raise("ShapeError",
              "out has " + std::to_string(out.shape(0)) + " rows, the column " + std::to_string(rows));
    }
    Out<uint8_t> faults = make<uint8_t>({rows});
    std::fill(faults.data(), faults.data() + rows, uint8_t{0});
    bool any_fault = false;
    bool hashed = false;
    std::string why;
    {
        nb::gil_scoped_release release;
        hashed = hash_column(*schema, *array, salt, max_bytes, {out.data(), out.stride(0), faults.data()},
                             any_fault, why);
    }
    if (!hashed)
        raise("ColumnError", why + " cannot be an id; expected integers, strings or a dictionary of these");
    return any_fault ? nb::cast(faults) : nb::none();
}

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

uint64_t hash_python(nb::object value, uint64_t salt) {
    if (value.is_none()) return null_key(salt);
    if (nb::isinstance<nb::bytes>(value)) {
        auto bytes = nb::cast<nb::bytes>(value);
        return string_key(reinterpret_cast<const uint8_t*>(bytes.c_str()), bytes.size(), salt);
    }
    if (nb::isinstance<nb::bool_>(value)) return integer_key(nb::cast<bool>(value) ? 1 : 0, salt);
    if (nb::isinstance<nb::float_>(value)) {
        const double number = nb::cast<double>(value);
        if (std::isnan(number)) return null_key(salt);
        if (std::floor(number) != number || number >= 0x1p63 || number < -0x1p63) {
            raise("ColumnError",
                  "a float that is no whole number cannot be an id: " + std::to_string(number));
        }
        return integer_key(static_cast<int64_t>(number), salt);
    }
    if (!nb::isinstance<nb::int_>(value) && !nb::isinstance<nb::str>(value)) {
        raise("ColumnError", "expected an integer, a text or bytes as an id, got " +
                                 nb::cast<std::string>(nb::repr(value.type())));
    }
    // Python's text of an integer is its canonical decimal text, at any size.
    const std::string text = nb::cast<std::string>(nb::str(value));
    return string_key(reinterpret_cast<const uint8_t*>(text.data()), text.size(), salt);
}

float number(const nb::dict& from, const char* name, float otherwise = 0) {
    return from.contains(name) ? nb::cast<float>(from[name]) : otherwise;
}

Slice read_slice(const nb::dict& from) {
    const auto kind = nb::cast<std::string>(from["kind"]);
    Slice slice;
    if (kind == "none")
        slice.optimizer = Optimizer::kNone;
    else if (kind == "sgd")
        slice.optimizer = Optimizer::kSgd;
    else if (kind == "adagrad")
        slice.optimizer = Optimizer::kAdagrad;
    else if (kind == "rowwise_adagrad")
        slice.optimizer = Optimizer::kRowwiseAdagrad;
    else if (kind == "adam")
        slice.optimizer = Optimizer::kAdam;
    else if (kind == "ftrl")
        slice.optimizer = Optimizer::kFtrl;
    else if (kind == "group_ftrl")
        slice.optimizer = Optimizer::kGroupFtrl;
    else
        raise("JobError", "unknown row optimizer '" + kind + "'");
    slice.width = nb::cast<uint32_t>(from["width"]);
    slice.lr = number(from, "lr");
    slice.momentum = number(from, "momentum");
    slice.eps = number(from, "eps");
    slice.initial = number(from, "initial_accumulator");
    slice.beta1 = number(from, "beta1");
    slice.beta2 = number(from, "beta2");
    slice.beta = number(from, "beta");
    slice.l1 = number(from, "l1");
    slice.l2 = number(from, "l2");
    slice.l21 = number(from, "l21");
    return slice;
}

Initial read_initial(const nb::dict& from) {
    const auto kind = nb::cast<std::string>(from["kind"]);
    if (kind == "constant") return {Initial::kConstant, number(from, "value"), 0};
    if (kind == "uniform") return {Initial::kUniform, number(from, "low"), number(from, "high")};
    if (kind == "normal") return {Initial::kNormal, number(from, "mean"), number(from, "std")};
    raise("JobError", "unknown initialiser '" + kind + "'");
}

Admission read_admission(const nb::object& from) {
    if (from.is_none()) return {};
    const auto facts = nb::cast<nb::dict>(from);
    const auto kind = nb::cast<std::string>(facts["kind"]);
    Admission admission;
    if (kind == "seen") {
        admission.kind = Admission::kSeen;
        admission.times = nb::cast<uint32_t>(facts["times"]);
    } else if (kind == "sketch") {
        admission.kind = Admission::kSketch;
        admission.times = nb::cast<uint32_t>(facts["times"]);
        admission.cells = nb::cast<uint32_t>(facts["cells"]);
    } else if (kind == "chance") {
        admission.kind = Admission::kChance;
        admission.probability = nb::cast<double>(facts["probability"]);
    } else {
        raise("JobError", "unknown admission '" + kind + "'");
    }
    return admission;
}

Config read_config(uint32_t dim, const nb::list& slices, const nb::dict& initial, const nb::object& admission,
                   uint32_t ttl_s, uint64_t seed, int threads) {
    Config config;
    config.dim = dim;
    uint32_t width = 0;
    for (nb::handle slice : slices) {
        config.slices.push_back(read_slice(nb::cast<nb::dict>(slice)));
        width += config.slices.back().width;
    }
    if (width != dim) {
        raise("ShapeError",
              "slices cover " + std::to_string(width) + " floats of a row of " + std::to_string(dim));
    }
    config.initial = read_initial(initial);
    config.admission = read_admission(admission);
    config.ttl = ttl_s;
    config.seed = seed;
    // A partition is the smallest share of work.
    config.threads = std::clamp(threads, 1, static_cast<int>(kPartitions));
    return config;
}

void check_rows(const char* what, size_t rows, size_t width, size_t n, size_t dim) {
    if (rows != n || width != dim) {
        raise("ShapeError", std::string(what) + " has shape (" + std::to_string(rows) + ", " +
                                std::to_string(width) + "), expected (" + std::to_string(n) + ", " +
                                std::to_string(dim) + ")");
    }
}

// Hashes columns of a record batch into columns of `out`. True if all of it was done; a column of another
// type or with a fault ends the work, since who looks for faults goes column by column.
bool hash_batch(nb::object batch, In<int32_t> columns, In<uint64_t> salts, In<int32_t> places,
                nb::ndarray<uint64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu> out, size_t max_bytes) {
    nb::tuple capsules = nb::cast<nb::tuple>(batch.attr("__arrow_c_array__")());
    auto* schema = static_cast<ArrowSchema*>(PyCapsule_GetPointer(capsules[0].ptr(), "arrow_schema"));
    auto* array = static_cast<ArrowArray*>(PyCapsule_GetPointer(capsules[1].ptr(), "arrow_array"));
    if (schema == nullptr || array == nullptr) throw nb::python_error();
    const size_t rows = static_cast<size_t>(array->length);
    const size_t n = columns.shape(0);
    const size_t width = out.shape(1);
    check_rows("out", out.shape(0), width, rows, width);
    check_rows("salts", salts.shape(0), 1, n, 1);
    check_rows("places", places.shape(0), 1, n, 1);
    for (size_t i = 0; i < n; ++i) {
        const auto column = static_cast<size_t>(columns.data()[i]);
        const auto place = static_cast<size_t>(places.data()[i]);
        if (column >= static_cast<size_t>(array->n_children) || place >= width)
            raise("ShapeError", "there is no column " + std::to_string(std::max(column, place)));
    }
    // A record batch that is a slice has its offset in its children; a struct array may have its own.
    if (array->offset != 0) return false;
    std::vector<uint8_t> faults(rows);
    nb::gil_scoped_release release;
    bool any_fault = false;
    std::string why;
    for (size_t i = 0; i < n; ++i) {
        const int32_t at = columns.data()[i];
        const KeyOutput to{out.data() + places.data()[i], static_cast<ptrdiff_t>(width), faults.data()};
        if (!hash_column(*schema->children[at], *array->children[at], salts.data()[i], max_bytes, to,
                         any_fault, why) ||
            any_fault)
            return false;
    }
    return true;
}

nb::tuple cut(Table& table, bool candidates, bool all) {
    Cut changed;
    {
        nb::gil_scoped_release release;
        changed = table.choose(candidates, all);
    }
    auto bounds = make<int64_t>({kPartitions + 1});
    auto deleted_bounds = make<int64_t>({kPartitions + 1});
    size_t n = 0;
    size_t gone = 0;
    bounds.data()[0] = deleted_bounds.data()[0] = 0;
    for (uint32_t p = 0; p < kPartitions; ++p) {
        bounds.data()[p + 1] = static_cast<int64_t>(n += changed.ids[p].size());
        deleted_bounds.data()[p + 1] = static_cast<int64_t>(gone += changed.deleted[p].size());
    }
    auto keys = make<uint64_t>({n});
    auto seen = make<uint32_t>({n});
    auto count = make<uint32_t>({n});
    auto weights = make<float>({n, candidates ? 0 : table.dim()});
    auto state = make<float>({n, candidates ? 0 : table.state_width()});
    auto deleted = make<uint64_t>({gone});
    uint64_t* next = deleted.data();
    for (const auto& part : changed.deleted) next = std::copy(part.begin(), part.end(), next);
    uint64_t* keys_at = keys.data();
    uint32_t* seen_at = seen.data();
    uint32_t* count_at = count.data();
    float* weights_at = weights.data();
    float* state_at = state.data();
    {
        nb::gil_scoped_release release;
        table.copy(candidates, changed, keys_at, seen_at, count_at, weights_at, state_at);
        if (!all) table.cut_done(candidates);
    }
    return nb::make_tuple(keys, seen, count, weights, state, deleted, bounds, deleted_bounds);
}

void load(Table& table, bool candidates, In<uint64_t> keys, In<uint32_t> seen, In<uint32_t> count,
          In2<float> weights, In2<float> state, bool touched, bool newer_only) {
    const size_t n = keys.shape(0);
    check_rows("seen", seen.shape(0), 1, n, 1);
    check_rows("count", count.shape(0), 1, n, 1);
    check_rows("weights", weights.shape(0), weights.shape(1), n, candidates ? 0 : table.dim());
    check_rows("state", state.shape(0), state.shape(1), n, candidates ? 0 : table.state_width());
    nb::gil_scoped_release release;
    table.load(candidates, n, keys.data(), seen.data(), count.data(), weights.data(), state.data(), touched,
               newer_only);
}

}  // namespace

NB_MODULE(core, m) {
    m.doc() = "The C++ core: hashing of Arrow columns, and the embedding table with its row optimizers.";
    m.attr("PARTITIONS") = kPartitions;
    m.def(
        "salt",
        [](const std::string& name) {
            return hash_bytes(reinterpret_cast<const uint8_t*>(name.data()), name.size(), 0);
        },
        "name"_a);
    m.def("hash_value", &hash_python, "value"_a.none(), "salt"_a);
    m.def("hash_column", &hash_arrow, "column"_a, "salt"_a, "out"_a, "max_bytes"_a = 65536);

    m.def("hash_batch", &hash_batch, "batch"_a, "columns"_a, "salts"_a, "places"_a, "out"_a,
          "max_bytes"_a = 65536);
    m.def("split_text", &split, "text"_a, "begin"_a, "end"_a, "delimiter"_a, "rows"_a, "num_columns"_a,
          "columns"_a);

    m.def("decode_json", &decode_json, "texts"_a, "fields"_a, "max_depth"_a, "starts"_a = nb::none(),
          "ends"_a = nb::none());

    m.def("decode_avro", &decode_avro, "texts"_a, "record"_a);

    nb::class_<Table>(m, "Table")
        .def(
            "__init__",
            [](Table* at, uint32_t dim, nb::list slices, nb::dict initial, nb::object admission,
               uint32_t ttl_s, uint64_t seed, int threads) {
                new (at) Table(read_config(dim, slices, initial, admission, ttl_s, seed, threads));
            },
            "dim"_a, "slices"_a, "initial"_a, "admission"_a.none(), "ttl_s"_a, "seed"_a, "threads"_a)
        .def_prop_ro("dim", &Table::dim)
        .def_prop_ro("state_width", &Table::state_width)
        .def(
            "pull",
            [](Table& table, In<uint64_t> keys,
               nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> out, uint32_t now, bool learn) {
                check_rows("out", out.shape(0), out.shape(1), keys.shape(0), table.dim());
                nb::gil_scoped_release release;
                if (learn) {
                    table.pull(keys.data(), keys.shape(0), out.data(), now);
                } else {
                    table.read(keys.data(), keys.shape(0), out.data(), now);
                }
            },
            "keys"_a, "out"_a, "now"_a, "learn"_a)
        .def(
            "push",
            [](Table& table, In<uint64_t> keys, In2<float> grads) {
                check_rows("grads", grads.shape(0), grads.shape(1), keys.shape(0), table.dim());
                nb::gil_scoped_release release;
                table.push(keys.data(), keys.shape(0), grads.data());
            },
            "keys"_a, "grads"_a)
        .def("cut", &cut, "candidates"_a, "all"_a)
        .def("evict", &Table::evict, "now"_a, "max_rows"_a, nb::call_guard<nb::gil_scoped_release>())
        .def("load", &load, "candidates"_a, "keys"_a, "seen"_a, "count"_a, "weights"_a, "state"_a,
             "touched"_a, "newer_only"_a)
        .def(
            "remove",
            [](Table& table, bool candidates, In<uint64_t> keys) {
                nb::gil_scoped_release release;
                return table.remove(candidates, keys.data(), keys.shape(0));
            },
            "candidates"_a, "keys"_a)
        .def("admission_state",
             [](Table& table) {
                 return nb::make_tuple(copy_of(table.sketch().data(), table.sketch().size()),
                                       copy_of(table.counters().data(), table.counters().size()));
             })
        .def(
            "load_admission_state",
            [](Table& table, In<uint8_t> sketch, In<uint64_t> counters) {
                check_rows("sketch", sketch.shape(0), 1, table.sketch().size(), 1);
                check_rows("counters", counters.shape(0), 1, table.counters().size(), 1);
                std::copy(sketch.data(), sketch.data() + sketch.shape(0), table.sketch().begin());
                std::copy(counters.data(), counters.data() + counters.shape(0), table.counters().begin());
            },
            "sketch"_a, "counters"_a)
        .def("__len__", &Table::size)
        .def("num_candidates", &Table::num_candidates)
        .def("size_bytes", &Table::size_bytes);
}

}  // namespace onstream
