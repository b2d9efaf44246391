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

TEST_CASE("as_view follows Map, Ref, transpose and const, and refuses what is about to die") {
  std::vector<float> data(24, 0.0F);
  using Rows = moxie::EigenMatrix<float>;

  // every second row of a buffer that is somebody else's
  const auto map = as_view(
      Eigen::Map<Rows, 0, Eigen::OuterStride<>>(data.data(), 2, 4, Eigen::OuterStride<>(8)));
  CHECK(map.stride == 8);
  map(1, 3) = 1;
  CHECK(data[11] == 1);

  Rows owner = Rows::Zero(3, 4);
  const auto read = [](const Eigen::Ref<const Rows>& r) { return as_view(r); };
  const auto write = [](Eigen::Ref<Rows> r) { return as_view(r); };
  static_assert(std::is_same_v<decltype(read(owner)), moxie::MatrixView<const float>>);
  static_assert(std::is_same_v<decltype(write(owner)), moxie::MatrixView<float>>);
  write(owner)(2, 1) = 6;
  CHECK(owner(2, 1) == 6);
  CHECK(read(owner).data == owner.data());  // no copy

  Eigen::MatrixXf columns = Eigen::MatrixXf::Zero(4, 3);  // [width, tokens]
  const auto tokens = as_view(columns.transpose());
  CHECK(tokens.rows == 3);
  CHECK(tokens.stride == 4);
  tokens(2, 1) = 9;
  CHECK(columns(1, 2) == 9);

  const Eigen::VectorXf fixed = Eigen::VectorXf::Constant(3, 2.0F);
  static_assert(std::is_same_v<decltype(as_view(fixed)), moxie::VectorView<const float>>);
  CHECK(as_view(fixed)[2] == 2);
  static_assert(moxie::detail::DyingMatrix<Rows>);
  static_assert(!moxie::detail::DyingMatrix<Rows&>);
  static_assert(!moxie::detail::DyingMatrix<Eigen::Ref<Rows>>);
  static_assert(moxie::detail::DyingMatrix<Eigen::Ref<const Rows>>);
  static_assert(!moxie::detail::DyingMatrix<const Eigen::Ref<const Rows>&>);
}
