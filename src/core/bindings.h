// What the files of the Python module share: arrays in, arrays out, errors.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <initializer_list>
#include <string>

namespace onstream {

namespace nb = nanobind;

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;  // (n,)
template <typename T>
using In2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;  // (n, width)
template <typename T>
using Out = nb::ndarray<nb::numpy, T>;

[[noreturn]] inline void raise(const char* error, const std::string& text) {
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

// Defines what splits and decodes texts.
void bind_text(nb::module_& m);

}  // namespace onstream
