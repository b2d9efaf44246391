#pragma once

#include "moxie/routing/pass.hpp"

namespace moxie::testing {

namespace detail {
template <Backend B>
struct AddGiven {
  ConstMatrix<B> in, noise;
  Matrix<B> out;

  MOXIE_HD void operator()(Index t, Index e) const { out(t, e) = in(t, e) + noise(t, e); }
};
}  // namespace detail

/// Noise that is not drawn but given: `WithNoise{GivenNoise<B>{.noise = n, .std = 0.1},
/// TopKRouter{.k = 2}}`.
template <class B>
struct GivenNoise {
  ConstMatrix<B> noise{};  ///< [T, E], added as it is
  double std = 0;          ///< the deviation it was drawn with: what a load loss needs to know

  double add(B& b, const Context<B>&, ConstMatrix<B> in, Matrix<B> out) const {
    b.for_each(in.rows, in.cols, detail::AddGiven<B>{in, noise, out});
    return std;
  }
};

}  // namespace moxie::testing
