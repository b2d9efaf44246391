#pragma once

#include <concepts>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "conformance/case.hpp"
#include "moxie/core/memory.hpp"

/// Numbers from JSON into the library, and back.
namespace moxie::conformance {

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

inline Index length(const Json& array) {
  if (!array.is_array()) throw std::invalid_argument("an array was expected");
  return static_cast<Index>(array.size());
}
/// Columns of a nested array that has rows.
inline Index columns(const Json& matrix) {
  if (length(matrix) == 0) throw std::invalid_argument("a matrix with rows was expected");
  return length(matrix[0]);
}
/// The numbers of an array of any depth, in order.
template <class T>
std::vector<T> flat(const Json& j) {
  if (!j.is_array()) return {j.get<T>()};
  std::vector<T> out;
  for (const Json& part : j)
    for (const T& v : flat<T>(part)) out.push_back(v);
  return out;
}
/// An input that may be left out or null.
inline bool given(const Json& inputs, const char* key) {
  return inputs.contains(key) && !inputs[key].is_null();
}

/// `values` as a nested array with the given axes: reals as double, so that they are compared as such.
template <class T>
Json nested(const std::vector<T>& values, std::initializer_list<Index> axes) {
  std::size_t next = 0;
  const auto fill = [&](const auto& self, const Index* axis) -> Json {
    if (axis == axes.end()) {
      if constexpr (std::floating_point<T>) {
        return static_cast<double>(values.at(next++));
      } else {
        return static_cast<T>(values.at(next++));
      }
    }
    Json out = Json::array();
    for (Index i = 0; i < *axis; ++i) out.push_back(self(self, axis + 1));
    return out;
  };
  Json out = fill(fill, axes.begin());
  if (next != values.size()) throw std::logic_error("axes that do not fit the number of values");
  return out;
}
template <class T>
Json list(const std::vector<T>& values) {
  return nested(values, {static_cast<Index>(values.size())});
}

/// The sums of the columns of a matrix.
template <class T>
std::vector<double> column_sums(const std::vector<T>& matrix, Index cols) {
  std::vector<double> sums(at(cols));
  for (std::size_t i = 0; i < matrix.size(); ++i)
    sums[i % at(cols)] += static_cast<double>(matrix[i]);
  return sums;
}

/// Elements of a backend's memory as a vector of the host.
template <Backend B, class T>
std::vector<std::remove_const_t<T>> host(B& b, VectorView<T, typename B::Space> v) {
  std::vector<std::remove_const_t<T>> out(at(v.size));
  if (!out.empty()) b.copy_to_host(out.data(), v.data, out.size() * sizeof(T));
  return out;
}
/// The same of a matrix without gaps, row after row.
template <Backend B, class T>
std::vector<std::remove_const_t<T>> host(B& b, MatrixView<T, typename B::Space> m) {
  return host(b, VectorView<T, typename B::Space>(m.data, m.size()));
}
/// Overwrites `to` with `values`, which are as many.
template <Backend B, class T, class U>
void upload(B& b, VectorView<T, typename B::Space> to, const std::vector<U>& values) {
  if (static_cast<Index>(values.size()) != to.size)
    throw std::invalid_argument(std::to_string(values.size()) + " numbers were given, " +
                                std::to_string(to.size) + " expected");
  std::vector<T> narrow;
  for (const U v : values) narrow.push_back(static_cast<T>(v));
  if (!narrow.empty()) b.copy_from_host(to.data, narrow.data(), narrow.size() * sizeof(T));
}

/// A matrix of a backend with its memory.
template <Backend B>
class Table {
 public:
  Table(B& b, Index rows, Index cols)
      : backend_(&b), rows_(rows), cols_(cols), memory_(b, rows * cols) {}
  Table(B& b, Index rows, Index cols, const std::vector<double>& values) : Table(b, rows, cols) {
    upload(b, memory_.view(), values);
  }
  Matrix<B> view() const { return {memory_.view().data, rows_, cols_}; }
  ConstMatrix<B> read() const { return view(); }
  std::vector<typename B::Scalar> get() const { return host(*backend_, view()); }
  Json json() const { return nested(get(), {rows_, cols_}); }

 private:
  B* backend_;
  Index rows_, cols_;
  Buffer<B, typename B::Scalar> memory_;
};
/// A nested array as a matrix.
template <Backend B>
Table<B> table(B& b, const Json& matrix) {
  return {b, length(matrix), columns(matrix), flat<double>(matrix)};
}

}  // namespace moxie::conformance
