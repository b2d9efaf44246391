#include "moxie/core/eigen.hpp"

#include <doctest/doctest.h>

#include <type_traits>
#include <vector>

using moxie::as_eigen;
using moxie::as_view;

TEST_CASE_TEMPLATE("views and Eigen see the same elements", T, float, double) {
  std::vector<T> data(16);
  const moxie::MatrixView<T> m(data.data(), 2, 3, 5);
  as_eigen(m)(1, 2) = T(7);
  CHECK(m(1, 2) == T(7));
  CHECK(data[7] == T(7));
  const moxie::VectorView<const T> v(data.data(), 16);
  CHECK(as_eigen(v).sum() == T(7));
  static_assert(!std::is_assignable_v<decltype(as_eigen(v)(0)), T>);

  moxie::EigenMatrix<T> e(3, 4);
  e.setZero();
  as_view(e)(2, 1) = T(5);
  CHECK(e(2, 1) == T(5));
  auto block = e.block(1, 1, 2, 2);
  const auto part = as_view(block);
  CHECK(part.rows == 2);
  CHECK(part.stride == 4);
  CHECK(part(1, 0) == T(5));
  moxie::EigenVector<T> x(6);
  as_view(x)[3] = T(2);
  CHECK(x(3) == T(2));
}

TEST_CASE("as_view takes row-major matrices only") {
  static_assert(moxie::EigenRows<moxie::EigenMatrix<float>>);
  static_assert(!moxie::EigenRows<Eigen::MatrixXf>);
  static_assert(moxie::EigenRows<Eigen::VectorXf>);
}
