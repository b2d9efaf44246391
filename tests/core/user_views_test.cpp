#include <doctest/doctest.h>

#include <array>
#include <type_traits>
#include <vector>
#if __has_include(<mdspan>)
#include <mdspan>
#endif

#include "moxie/core/mdspan.hpp"
#include "moxie/core/span.hpp"
#include "support/errors.hpp"

using moxie::as_matrix;
using moxie::as_vector;
using moxie::as_view;
using moxie::Index;
using moxie::MatrixView;
using moxie::VectorView;

TEST_CASE("a span is a vector, rows one after another, or rows apart") {
  std::vector<float> data{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const std::span all(data);
  CHECK(as_vector(all)[5] == 5);
  const MatrixView<float> whole = as_matrix(all, 4);
  CHECK(whole.rows == 3);
  CHECK(whole(2, 1) == 9);
  CHECK(whole.data == data.data());
  const MatrixView<float> apart = as_matrix(all, 3, 2, 5);
  CHECK(apart(2, 1) == 11);
  apart(1, 0) = 50;
  CHECK(data[5] == 50);
  static_assert(
      std::is_same_v<decltype(as_matrix(std::span<const float>(), 1)), MatrixView<const float>>);
  std::array<double, 6> fixed{};
  CHECK(as_matrix(std::span(fixed), 3).rows == 2);
  CHECK(as_matrix(all.first(0), 3).rows == 0);
  CHECK(as_matrix(all.first(0), 0, 3, 3).rows == 0);
}

TEST_CASE("a span that does not hold the rows is refused") {
  std::vector<float> data(12);
  const std::span all(data);
  using moxie::shape_error;
  CHECK_THROWS_WITH_AS(
      as_matrix(all, 5),
      "moxie::as_matrix: cols is 5 and data has 12 elements, expected a whole number of rows",
      shape_error);
  CHECK_THROWS_AS(as_matrix(all, 0), shape_error);
  CHECK_THROWS_WITH_AS(
      as_matrix(all, 3, 3, 5),
      "moxie::as_matrix: 3 rows of 3 elements, 5 apart, do not fit into data, which has 12",
      shape_error);
  CHECK_THROWS_AS(as_matrix(all, moxie::Index{1} << 62, 1, 4), shape_error);  // whose end overflows
  CHECK_NOTHROW(as_matrix(all, 3, 2, 5));
  CHECK_NOTHROW(as_matrix(all, 0, 0, 0));
  CHECK_THROWS_WITH_AS(
      as_matrix(all, 2, 4, 3),
      "moxie::as_matrix: rows, cols and stride are 2, 4 and 3, expected rows >= 0 and "
      "stride >= cols >= 0",
      shape_error);
}

namespace {
/// The members of std::mdspan with layout_stride, for compilers whose library has none.
template <class T, std::size_t R>
struct Strided {
  using element_type = T;
  T* data;
  std::array<Index, R> extents, strides;
  static constexpr std::size_t rank() { return R; }
  T* data_handle() const { return data; }
  Index extent(std::size_t r) const { return extents[r]; }
  Index stride(std::size_t r) const { return strides[r]; }
};
}  // namespace

TEST_CASE("an mdspan is a view, its leading axes folded into rows") {
  std::vector<float> data(64);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i);
  const VectorView<float> vector = as_view(Strided<float, 1>{data.data(), {5}, {1}});
  CHECK(vector.size == 5);
  const MatrixView<const float> padded =
      as_view(Strided<const float, 2>{data.data(), {3, 4}, {8, 1}});
  CHECK(padded(2, 3) == 19);
  // [2 images, 3 tokens, width 4], tokens 6 apart, images right behind one another
  const MatrixView<float> folded = as_view(Strided<float, 3>{data.data(), {2, 3, 4}, {18, 6, 1}});
  CHECK(folded.rows == 6);
  CHECK(folded.cols == 4);
  CHECK(folded(4, 2) == 26);
  // an axis of one element has any stride
  CHECK(as_view(Strided<float, 3>{data.data(), {1, 3, 4}, {99, 6, 1}})(2, 0) == 12);
  CHECK(as_view(Strided<float, 3>{data.data(), {3, 1, 4}, {10, 99, 1}})(2, 1) == 21);
  CHECK(as_view(Strided<float, 2>{data.data(), {0, 4}, {4, 1}}).rows == 0);
}

TEST_CASE("an mdspan that is no rows is refused") {
  float data[64] = {};
  using moxie::test::message_of;
  CHECK(message_of([&] {
          as_view(Strided<float, 2>{data, {3, 4}, {1, 3}});
        }) ==
        "moxie::as_view: the last axis of the mdspan has stride 3, expected 1 (layout_right)");
  CHECK(message_of([&] {
          as_view(Strided<float, 3>{data, {2, 3, 4}, {20, 6, 1}});
        }) ==
        "moxie::as_view: axis 0 of the mdspan has stride 20, expected 18, so that it continues the "
        "rows of the axes behind it");
}

#if defined(__cpp_lib_mdspan)
TEST_CASE("std::mdspan itself is taken") {
  double data[12] = {};
  data[7] = 5;
  const MatrixView<double> view = as_view(std::mdspan(data, 3, 4));
  CHECK(view(1, 3) == 5);
}
#endif
