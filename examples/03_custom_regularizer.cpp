// A loss on the routing of one's own: what a researcher writes, and what the library then does with it.
#include <cstdio>
#include <moxie/moxie.hpp>
#include <moxie/testing/gradcheck.hpp>
#include <moxie/testing/regularizer_laws.hpp>
using moxie::Backend, moxie::ConstIntVector, moxie::ConstMatrix, moxie::ConstVector, moxie::Context;
using moxie::HasLogits, moxie::Index, moxie::Matrix, moxie::RoutingGradients, moxie::Vector;

// [regularizer]
template <Backend B>
struct SumSquares {
  ConstMatrix<B> logits;
  ConstIntVector<B> mask;
  Vector<B> sums;

  MOXIE_HD void operator()(Index) const {
    sums[0] = sums[1] = 0;
    for (Index t = 0; t < logits.rows; ++t) {
      if (mask && mask[t] == 0) continue;  // padding
      for (Index e = 0; e < logits.cols; ++e) sums[0] += logits(t, e) * logits(t, e);
      sums[1] += 1;
    }
  }
};
template <Backend B>
struct ScaleMean {
  ConstVector<B> sums;
  typename B::Scalar weight;
  Vector<B> out;

  MOXIE_HD void operator()(Index) const { out[0] = sums[1] > 0 ? weight * sums[0] / sums[1] : 0; }
};
template <Backend B>
struct AddGradient {  // one call a token
  ConstMatrix<B> logits;
  ConstIntVector<B> mask;
  ConstVector<B> sums;
  typename B::Scalar weight;
  Matrix<B> d_logits;

  MOXIE_HD void operator()(Index t) const {
    if (mask && mask[t] == 0) return;
    for (Index e = 0; e < logits.cols; ++e) d_logits(t, e) += 2 * weight / sums[1] * logits(t, e);
  }
};

/// weight * mean over tokens of |logits|^2: keeps a router from being too sure.
struct SmallLogits {
  double weight = 0.01;
  static constexpr std::string_view name = "small_logits";
  static constexpr bool per_group = false;  // its sums cover the whole batch

  Index sums(const moxie::RoutingShape&) const { return 2; }
  template <Backend B, HasLogits<B> R>
  void accumulate(B& b, const Context<B>& ctx, const R& r, Vector<B> s) const {
    b.for_each(1, SumSquares<B>{r.logits, ctx.mask, s});
  }
  template <Backend B, HasLogits<B> R>
  void loss(B& b, const Context<B>&, const R&, ConstVector<B> s, Vector<B> out) const {
    b.for_each(1, ScaleMean<B>{s, static_cast<typename B::Scalar>(weight), out});
  }
  template <Backend B, HasLogits<B> R>
  void loss_backward(B& b, const Context<B>& ctx, const R& r, ConstVector<B> s,
                     RoutingGradients<R>& g) const {
    const auto scale = static_cast<typename B::Scalar>(weight);
    b.for_each(r.shape.tokens, AddGradient<B>{r.logits, ctx.mask, s, scale, g.logits});
  }
  friend bool operator==(const SmallLogits&, const SmallLogits&) = default;
};
// [regularizer]

int main() {
  moxie::CpuBackend<double> cpu;
  const auto laws = moxie::testing::check_regularizer_laws(cpu, SmallLogits{}, {.cases = 100});
  std::printf("laws: %s\n", laws ? "kept" : laws.message.c_str());
  const moxie::MoeLayer layer{cpu,
                              {.width = 8, .experts = 4},
                              moxie::TopKRouter{.k = 2},
                              moxie::Dropless{},
                              moxie::SwiGLU{.hidden = 8},
                              SmallLogits{}};
  const auto gradients = moxie::testing::check_gradients(layer, 12, {});
  std::printf("gradients: %s\n", gradients ? "right" : gradients.message.c_str());
}
