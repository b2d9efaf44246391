#pragma once

#include "moxie/expert/concept.hpp"

namespace moxie::testing {

namespace detail {
template <Backend B>
struct CopyOwnedRow {
  Rows<B> in;
  Matrix<B> out;

  MOXIE_HD void operator()(Index r) const {
    if (r < in.offset[0] || r >= in.offset[in.experts()]) return;
    for (Index c = 0; c < out.cols; ++c) out(r, c) = in(r, c);
  }
};
}  // namespace detail

/// An expert without parameters that returns its rows: what a layer around it computes is routing
/// alone.
struct PassThrough {
  template <Backend B>
  struct State {};
  template <Backend B>
  struct Tape {};

  Index output_width(Index width) const noexcept { return width; }
  template <Backend B>
  void declare(const Scope<B>&, const ExpertShape&, State<B>&) const {}
  template <Backend B>
  void bind(B&, Arena<B>&, const Parameters<B>&, const State<B>&, Index, Tape<B>&) const {}
  template <Backend B>
  void forward(B& b, const Parameters<B>&, const State<B>&, const Rows<B>& in, Matrix<B> out,
               Tape<B>&, const Pass<B>&) const {
    b.for_each(in.rows, detail::CopyOwnedRow<B>{in, out});
  }
  template <Backend B>
  void backward(B& b, const Parameters<B>&, const State<B>&, const Rows<B>&, const Rows<B>& dy,
                Matrix<B> dx, Tape<B>&, Gradients) const {
    b.for_each(dy.rows, detail::CopyOwnedRow<B>{dy, dx});
  }
};

}  // namespace moxie::testing
