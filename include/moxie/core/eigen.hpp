#pragma once

// Eigen's own CUDA support would mark its functions for the device; ours are for the host.
#if defined(__CUDACC__) && !defined(EIGEN_NO_CUDA)
#define EIGEN_NO_CUDA
#endif
#include <Eigen/Core>
#include <type_traits>

#include "moxie/core/view.hpp"

/// Views as Eigen maps and back, without a copy. The only header that includes Eigen.
namespace moxie {

template <class T>
using EigenMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using EigenVector = Eigen::Matrix<T, Eigen::Dynamic, 1>;

namespace detail {
/// Maps of read-only memory are maps of a const matrix.
template <class T, class M>
using SameConst = std::conditional_t<std::is_const_v<T>, const M, M>;
}  // namespace detail

template <class T>
using EigenMatrixMap = Eigen::Map<detail::SameConst<T, EigenMatrix<std::remove_const_t<T>>>,
                                  Eigen::Unaligned, Eigen::OuterStride<>>;
template <class T>
using EigenVectorMap = Eigen::Map<detail::SameConst<T, EigenVector<std::remove_const_t<T>>>>;

template <class T>
EigenMatrixMap<T> as_eigen(MatrixView<T, HostSpace> v) {
  return {v.data, v.rows, v.cols, Eigen::OuterStride<>(v.stride)};
}
template <class T>
EigenVectorMap<T> as_eigen(VectorView<T, HostSpace> v) {
  return {v.data, v.size};
}

/// What `as_view` accepts: a row-major matrix, Map, Ref or block whose rows are contiguous, or a
/// vector. A column-major matrix [D, T] is a row-major [T, D]: give its `.transpose()`.
template <class M>
concept EigenRows = requires(M& m) {
  m.outerStride();
  m.data();
}
&&M::InnerStrideAtCompileTime == 1 && (bool(M::IsVectorAtCompileTime) || bool(M::IsRowMajor));

namespace detail {
/// A read-only Ref holds a copy of what it could not refer to.
template <class M>
inline constexpr bool may_hold_copy = false;
template <class P, int O, class S>
inline constexpr bool may_hold_copy<Eigen::Ref<const P, O, S>> = true;

/// A matrix that owns its elements and is about to be destroyed: a view of it would dangle.
template <class M>
concept DyingMatrix =
    !std::is_lvalue_reference_v<M> &&
    (std::is_base_of_v<Eigen::PlainObjectBase<std::remove_cv_t<M>>, std::remove_cv_t<M>> ||
     may_hold_copy<std::remove_cv_t<M>>);
}  // namespace detail

/// A view of an Eigen matrix, or of what a Map, Ref or block of one shows: a MatrixView, of vectors a
/// VectorView. The elements must outlive it.
template <class M>
requires EigenRows<std::remove_reference_t<M>> &&(!detail::DyingMatrix<M>)auto as_view(M&& m) {
  using T = std::remove_pointer_t<decltype(m.data())>;
  if constexpr (bool(std::remove_reference_t<M>::IsVectorAtCompileTime)) {
    return VectorView<T>(m.data(), m.size());
  } else {
    return MatrixView<T>(m.data(), m.rows(), m.cols(), m.outerStride());
  }
}

}  // namespace moxie
