#include "moxie/regularizer/with_decay.hpp"

#include <doctest/doctest.h>

#include "moxie/regularizer/importance.hpp"
#include "regularizer/evaluated.hpp"

using namespace moxie;
using test::Evaluated;
using test::Given;

TEST_CASE("a weight falls linearly, or in one step after half of the training") {
  for (const double t : {0.0, 0.3, 0.5, 0.75, 1.0}) CHECK(decay_factor(LossDecay::none, t) == 1);
  CHECK(decay_factor(LossDecay::linear, 0) == 1);
  CHECK(decay_factor(LossDecay::linear, 0.25) == 0.75);
  CHECK(decay_factor(LossDecay::linear, 1) == 0);
  CHECK(decay_factor(LossDecay::linear, 1.5) == 0);
  CHECK(decay_factor(LossDecay::step, 0.5) == 1);
  CHECK(decay_factor(LossDecay::step, 0.500001) == 0);
}

TEST_CASE_TEMPLATE("WithDecay gives the loss with what is left of its weight", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Given<B> g(backend, {.3, .1, 2, -1, .4, .2}, {}, 0, 2, 1);
  for (const LossDecay decay : {LossDecay::none, LossDecay::linear, LossDecay::step})
    for (const double t : {0.0, 0.25, 0.5, 0.75, 1.0}) {
      CAPTURE(t);
      g.f.context.progress = t;
      const Evaluated<B> got(backend, WithDecay{decay, Importance{.weight = 2}}, g.f, g.router);
      const Evaluated<B> wanted(backend, Importance{.weight = 2 * decay_factor(decay, t)}, g.f,
                                g.router);
      CHECK(got.loss == wanted.loss);
      CHECK(got.d_logits == wanted.d_logits);
    }
}

namespace {

/// NaN, as a loss may be that nobody wants any more.
struct Broken {
  double weight = 1;
  static constexpr std::string_view name = "broken";
  static constexpr bool per_group = true;

  Index sums(const RoutingShape&) const { return 1; }
  template <Backend B>
  void accumulate(B& b, const Context<B>&, const SparseRouting<B>&, Vector<B> sums) const {
    b.fill(sums, nan<B>());
  }
  template <Backend B>
  void loss(B& b, const Context<B>&, const SparseRouting<B>&, ConstVector<B>, Vector<B> out) const {
    b.fill(out, nan<B>());
  }
  template <Backend B>
  void loss_backward(B& b, const Context<B>&, const SparseRouting<B>&, ConstVector<B>,
                     RoutingGradients<SparseRouting<B>>& g) const {
    b.fill(Vector<B>(g.logits.data, g.logits.size()), nan<B>());
  }
  friend bool operator==(const Broken&, const Broken&) = default;

 private:
  template <class B>
  static typename B::Scalar nan() {
    return std::numeric_limits<typename B::Scalar>::quiet_NaN();
  }
};

}  // namespace

TEST_CASE_TEMPLATE("a loss whose weight is used up is not evaluated", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Given<B> g(backend, {.3, .1, 2, -1, .4, .2}, {}, 0, 2, 1);
  g.f.context.progress = 0.9;
  const Evaluated<B> off(backend, WithDecay{LossDecay::step, Broken{}}, g.f, g.router);
  CHECK(off.loss == 0);
  CHECK(off.sums == std::vector<typename B::Scalar>{0});
  for (const auto d : off.d_logits) CHECK(d == 0);
  CHECK(WithDecay{LossDecay::step, Broken{}} == WithDecay{LossDecay::step, Broken{}});
  CHECK_FALSE(WithDecay{LossDecay::step, Broken{}} == WithDecay{LossDecay::linear, Broken{}});
}
