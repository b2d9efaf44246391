// An expert that a user writes: what the contract asks for, and no more.
#include "expert/experts.hpp"

using namespace moxie;

namespace {

/// y = s_e * x: one number per expert and column.
struct Scale {
  template <Backend B>
  struct Row {
    ConstMatrix<B> s;
    Rows<B> in;
    Matrix<B> out;

    MOXIE_HD void operator()(Index r) const {
      const Index e = expert_of_row(in.offset.data, in.experts(), r);
      for (Index c = 0; e >= 0 && c < out.cols; ++c) out(r, c) = s(e, c) * in(r, c);
    }
  };
  template <Backend B>
  struct Gradient {
    Rows<B> in, dy;
    Matrix<B> ds;

    MOXIE_HD void operator()(Index e, Index c) const {
      for (Index r = in.offset[e]; r < in.offset[e + 1]; ++r) ds(e, c) += in(r, c) * dy(r, c);
    }
  };
  template <Backend B>
  struct State {
    typename Parameters<B>::Id s = 0;
  };
  template <Backend B>
  struct Tape {};

  Index output_width(Index width) const { return width; }
  template <Backend B>
  void declare(const Scope<B>& scope, const ExpertShape& shape, State<B>& state) const {
    state.s =
        scope.add_experts("scale", {shape.experts, shape.width}, Initializer::constant(1), false);
  }
  template <Backend B>
  void bind(B&, Arena<B>&, const Parameters<B>&, const State<B>&, Index, Tape<B>&) const {}
  template <Backend B>
  void forward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
               Matrix<B> out, Tape<B>&, const Pass<B>&) const {
    b.for_each(in.rows, Row<B>{p.value(state.s), in, out});
  }
  template <Backend B>
  void backward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
                const Rows<B>& dy, Matrix<B> dx, Tape<B>&, Gradients gradients) const {
    if (gradients == Gradients::all)
      b.for_each(in.experts(), dx.cols, Gradient<B>{in, dy, p.gradient(state.s)});
    b.for_each(in.rows, Row<B>{p.value(state.s), dy, dx});
  }
};

}  // namespace

TEST_CASE_TEMPLATE("an expert of a user's own models Expert and obeys its laws", B,
                   MOXIE_TEST_BACKENDS) {
  static_assert(Expert<Scale, B>);
  test::check_expert<B>(Scale{});
}
