// The Python module `onstream.core`: arrays in, arrays out, the GIL released while C++ works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bindings.h"
#include "hash.h"
#include "table.h"

using namespace nanobind::literals;

namespace onstream {
namespace {

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
    bind_text(m);

    nb::class_<Plan>(m, "Plan")
        .def(
            "__init__",
            [](Plan* at, In<uint64_t> keys) {
                nb::gil_scoped_release release;
                // One thread: the others are for the batch that is being learned from.
                new (at) Plan(keys.data(), keys.shape(0), 1);
            },
            "keys"_a)
        .def("__len__", &Plan::size);

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
            "pull_planned",
            [](Table& table, const Plan& plan,
               nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> out, uint32_t now) {
                check_rows("out", out.shape(0), out.shape(1), plan.size(), table.dim());
                nb::gil_scoped_release release;
                table.pull(plan, out.data(), now);
            },
            "plan"_a, "out"_a, "now"_a)
        .def(
            "push_planned",
            [](Table& table, const Plan& plan, In2<float> grads) {
                check_rows("grads", grads.shape(0), grads.shape(1), plan.size(), table.dim());
                nb::gil_scoped_release release;
                table.push(plan, grads.data());
            },
            "plan"_a, "grads"_a)
        .def(
            "push",
            [](Table& table, In<uint64_t> keys, In2<float> grads) {
                check_rows("grads", grads.shape(0), grads.shape(1), keys.shape(0), table.dim());
                nb::gil_scoped_release release;
                table.push(keys.data(), keys.shape(0), grads.data());
            },
            "keys"_a, "grads"_a)
        .def(
            "begin_states",
            [](const Table& table, In2<float> weights) {
                const size_t n = weights.shape(0);
                check_rows("weights", n, weights.shape(1), n, table.dim());
                auto states = make<float>({n, table.state_width()});
                table.begin_states(n, weights.data(), states.data());
                return states;
            },
            "weights"_a)
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
