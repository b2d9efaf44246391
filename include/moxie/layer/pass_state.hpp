#pragma once

#include <utility>

#include "moxie/layer/concept.hpp"

namespace moxie::detail {

/// What the tape of every layer here notes of its last forward, with the checks that come before
/// anything is written.
template <Backend B>
struct PassState {
  ConstMatrix<B> x{};                     ///< of the last forward: a view of the caller's memory
  Index bound = 0;                        ///< rows the tape was made for
  Gradients limit = Gradients::none;      ///< what the tape was made for
  Gradients gradients = Gradients::none;  ///< what its last forward promised: at most `limit`
  Gradients when_done = Gradients::none;  ///< the same, while parts of a forward are still to come

  void bind(const Arena<B>& arena, Index rows) {
    *this = {};
    bound = rows;
    limit = arena.gradients();
  }
  void begin_forward(const char* who, ConstMatrix<B> input, Matrix<B> y, Index in, Index out,
                     const Pass<B>& pass) {
    check_forward<B>(who, input, y, in, out, bound);
    x = input;
    gradients = pass.gradients < limit ? pass.gradients : limit;
  }
  /// The same for a layer made of layers: one of them may refuse after others have written, so there is nothing to go
  /// back from until `end_forward`.
  void begin_forward_of_parts(const char* who, ConstMatrix<B> input, Matrix<B> y, Index in,
                              Index out, const Pass<B>& pass) {
    begin_forward(who, input, y, in, out, pass);
    when_done = gradients;
    gradients = Gradients::none;
  }
  void end_forward() { gradients = when_done; }
  void begin_backward(const char* who, ConstMatrix<B> dy, Matrix<B> dx, Index in, Index out) const {
    if (gradients == Gradients::none)
      throw_config(
          who,
          "::backward: there was no forward on this tape since its last backward, or one without "
          "gradients (",
          limit == Gradients::none ? "Gradients::none in make_tape" : "Pass::gradients", ")");
    check_backward<B>(who, dy, dx, x.rows, in, out);
  }
  /// The same for a layer made of layers, which share scratch with what others saved: one backward a
  /// forward, and none after one that threw halfway, for it has added some gradients already.
  /// Gives what the forward promised.
  Gradients begin_backward_of_parts(const char* who, ConstMatrix<B> dy, Matrix<B> dx, Index in,
                                    Index out) {
    begin_backward(who, dy, dx, in, out);
    return std::exchange(gradients, Gradients::none);
  }
  Index rows() const { return x.rows; }
  bool wants_weights() const { return gradients == Gradients::all; }
};

}  // namespace moxie::detail
