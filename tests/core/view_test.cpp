#include "moxie/core/view.hpp"

#include <doctest/doctest.h>

#include "moxie/backend/cpu.hpp"
#include "moxie/core/rows.hpp"

using namespace moxie;

TEST_CASE("a matrix view reads rows by its stride") {
  float data[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const MatrixView<float> m(data, 3, 2, 4);
  CHECK(m(0, 1) == 2);
  CHECK(m(2, 0) == 9);
  CHECK(m.row(1) == data + 4);
  CHECK(m.size() == 6);
  m(1, 1) = 60;
  CHECK(data[5] == 60);
}

TEST_CASE("parts of a matrix view keep its stride") {
  float data[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const MatrixView<float> m(data, 3, 4);
  CHECK(m.top(2).rows == 2);
  CHECK(m.middle(1, 2)(0, 0) == 5);
  const MatrixView<float> c = m.columns(2, 2);
  CHECK(c.cols == 2);
  CHECK(c(2, 1) == 12);
  CHECK(c.middle(1, 1)(0, 0) == 7);
}

TEST_CASE("a writable view reads as a read-only one and never the other way") {
  static_assert(std::is_convertible_v<MatrixView<float>, MatrixView<const float>>);
  static_assert(!std::is_convertible_v<MatrixView<const float>, MatrixView<float>>);
  static_assert(!std::is_convertible_v<MatrixView<float>, MatrixView<const double>>);
  static_assert(std::is_convertible_v<VectorView<int>, VectorView<const int>>);
  static_assert(!std::is_convertible_v<VectorView<const int>, VectorView<int>>);
  // Nor does a view of the host reach a device.
  static_assert(!std::is_convertible_v<MatrixView<float>, MatrixView<float, DeviceSpace>>);
  static_assert(!std::is_convertible_v<MatrixView<float>, MatrixView<const float, DeviceSpace>>);
  CHECK_FALSE(MatrixView<float>());
  CHECK_FALSE(VectorView<float>());
}

TEST_CASE("a batch view steps over images and heads") {
  double data[24];
  for (int i = 0; i < 24; ++i) data[i] = i;
  // 2 images of [2 x 6]; 3 heads of width 2 lie side by side.
  const BatchView<double> b(MatrixView<double>(data, 2, 2, 6), 2, 12, 3, 2);
  CHECK(b(0, 0)(0, 0) == 0);
  CHECK(b(0, 2)(1, 1) == 11);
  CHECK(b(1, 1)(0, 0) == 14);
}

TEST_CASE("a row of Rows is a scaled row of x, found by index") {
  using B = CpuBackend<double>;
  double x[] = {1, 2, 3, 4};
  std::int32_t index[] = {1, 0, 1};
  double scale[] = {10, 1, -1};
  std::int32_t offset[] = {0, 1, 3};
  const Rows<B> rows{MatrixView<double>(x, 2, 2), ConstIntVector<B>(index, 3),
                     ConstVector<B>(scale, 3), ConstIntVector<B>(offset, 3), 3};
  CHECK(rows.experts() == 2);
  CHECK(rows(0, 1) == 40);
  CHECK(rows(1, 0) == 1);
  CHECK(rows(2, 1) == -4);
  const Rows<B> plain{MatrixView<double>(x, 2, 2), {}, {}, ConstIntVector<B>(offset, 3), 2};
  CHECK(plain(1, 0) == 3);
}

TEST_CASE("expert_of_row finds the owner among empty experts") {
  const std::int32_t offset[] = {2, 2, 5, 5, 5, 6, 6};
  CHECK(expert_of_row(offset, 6, 0) == -1);
  CHECK(expert_of_row(offset, 6, 1) == -1);
  CHECK(expert_of_row(offset, 6, 2) == 1);
  CHECK(expert_of_row(offset, 6, 4) == 1);
  CHECK(expert_of_row(offset, 6, 5) == 4);
  CHECK(expert_of_row(offset, 6, 6) == -1);
  const std::int32_t nothing[] = {3, 3};
  CHECK(expert_of_row(nothing, 1, 3) == -1);
}
