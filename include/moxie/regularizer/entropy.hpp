#pragma once

#include "moxie/core/math.hpp"
#include "moxie/regularizer/concept.hpp"
#include "moxie/regularizer/group_sums.hpp"

/// What the losses of entropies share. local = mean over tokens of H(p), global = H(mean over
/// tokens of p), with H(p) = -sum of p log p in nats and 0 log 0 = 0. A Form says which of them a
/// loss reads, its value, and its derivatives.
///
/// Sums of a group: p [E] if global, -p log p [E] if local, number of tokens.
namespace moxie::detail {

template <class T>
MOXIE_HD T entropy_term(T p) {
  return p > 0 ? -p * math::log(p) : T(0);
}
/// Of -p log p. Infinite at 0, where the derivative of a softmax is 0 itself: their product is 0.
template <class T>
MOXIE_HD T entropy_slope(T p) {
  return p > 0 ? -(math::log(p) + T(1)) : T(0);
}

template <class Form>
MOXIE_HD constexpr Index entropy_width(Index experts) {
  return ((Form::reads_local ? 1 : 0) + (Form::reads_global ? 1 : 0)) * experts + 1;
}

template <Backend B, class Form>
struct EntropyTerm {
  static constexpr bool one_level = true;
  ConstMatrix<B> probs;
  ConstIntVector<B> mask;

  struct Row {
    const typename B::Scalar* probs;
    Index locals, last;  // the first column of -p log p, and that of the count

    MOXIE_HD MOXIE_INLINE explicit operator bool() const { return probs != nullptr; }
    MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index c) const {
      if (c < locals) return probs[c];
      return c < last ? entropy_term(probs[c - locals]) : 1;
    }
  };
  MOXIE_HD MOXIE_INLINE Row of(Index t) const {
    return {mask && mask[t] == 0 ? nullptr : probs.row(t), Form::reads_global ? probs.cols : 0,
            entropy_width<Form>(probs.cols) - 1};
  }
};

template <class T, class Form>
struct EntropyLoss {
  Index experts;
  Form form;

  MOXIE_HD T tokens(const T* sums) const { return sums[entropy_width<Form>(experts) - 1]; }
  MOXIE_HD T global(const T* sums) const {
    T h = 0;
    if constexpr (Form::reads_global)
      for (Index e = 0; e < experts; ++e) h += entropy_term(sums[e] / tokens(sums));
    return h;
  }
  MOXIE_HD T local(const T* sums) const {
    T h = 0;
    if constexpr (Form::reads_local) {
      const T* own = sums + (Form::reads_global ? experts : 0);
      for (Index e = 0; e < experts; ++e) h += own[e];
    }
    return h / tokens(sums);
  }
  MOXIE_HD T operator()(const T* sums) const {
    return tokens(sums) > 0 ? form.value(local(sums), global(sums)) : T(0);
  }
};

template <Backend B, class Form>
struct EntropyBackward {
  static constexpr bool one_level = true;
  ConstMatrix<B> probs;
  ConstVector<B> sums;
  ConstIntVector<B> mask;
  Index group;
  EntropyLoss<typename B::Scalar, Form> loss;
  double weight;
  Matrix<B> d_probs;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    if (mask && mask[t] == 0) return;
    const Index experts = probs.cols;
    const Index width = entropy_width<Form>(experts);
    const T* own = sums.data + t / group * width;
    const T tokens = loss.tokens(own);
    const T scale = static_cast<T>(weight) / (tokens * static_cast<T>(sums.size / width));
    if constexpr (Form::reads_local)
      for (Index e = 0; e < experts; ++e) d_probs(t, e) += scale * entropy_slope(probs(t, e));
    if constexpr (Form::reads_global) {
      const T slope = scale * loss.form.d_global(loss.global(own));
      for (Index e = 0; e < experts; ++e) d_probs(t, e) += slope * entropy_slope(own[e] / tokens);
    }
  }
};

/// The parts of a Regularizer whose loss is a Form's.
template <class Form>
struct Entropy {
  Form form{};
  double weight = 0;

  Index sums(const RoutingShape& s) const noexcept { return group_sums_size(shape(s)); }
  template <Backend B, class Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    group_sums(b, shape(r.shape), EntropyTerm<B, Form>{r.probs, ctx.mask}, sums);
  }
  template <Backend B, class Routing>
  void loss(B& b, const Routing& r, ConstVector<B> sums, Vector<B> out) const {
    using Loss = EntropyLoss<typename B::Scalar, Form>;
    b.for_each(1, MeanOfGroups<B, Loss>{group_totals(sums, shape(r.shape)),
                                        r.shape.groups(),
                                        {r.shape.experts, form},
                                        weight,
                                        out});
  }
  template <Backend B, class Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    b.for_each(r.shape.tokens, EntropyBackward<B, Form>{r.probs,
                                                        group_totals(sums, shape(r.shape)),
                                                        ctx.mask,
                                                        r.shape.group,
                                                        {r.shape.experts, form},
                                                        weight,
                                                        g.probs});
  }

 private:
  static GroupShape shape(const RoutingShape& s) noexcept {
    return token_sums(s, entropy_width<Form>(s.experts));
  }
};

}  // namespace moxie::detail
