#pragma once

#include "moxie/core/error.hpp"
#include "moxie/core/math.hpp"
#include "moxie/router/concept.hpp"

namespace moxie {

/// The blocks of an efficient ensemble: each token comes `members` times, the experts are as many blocks of
/// E / members consecutive ones, and member m's copies use block m alone.
///
/// A row's member is (its number in the whole batch / rows) mod members: with rows = 1, the copies of a token follow each
/// other; with the tokens of an image as `rows`, the copies of an image do (V-MoE).
/// Source: Allingham et al., "Sparse MoEs meet Efficient Ensembles", TMLR 2022; V-MoE, `vmoe/nn/ensemble_routing.py`.
struct EnsembleBlocks {
  Index members = 1;
  Index rows = 1;  ///< consecutive rows of one member

  friend constexpr bool operator==(const EnsembleBlocks&, const EnsembleBlocks&) = default;
};

namespace detail {
/// Sets what lies outside a row's block.
template <Backend B>
struct FillOutsideBlock {
  static constexpr bool one_level = true;
  Index first_token;
  EnsembleBlocks blocks;
  typename B::Scalar value;
  Matrix<B> m;

  MOXIE_HD void operator()(Index t) const {
    const Index size = m.cols / blocks.members;
    const Index member = (first_token + t) / blocks.rows % blocks.members;
    for (Index e = 0; e < m.cols; ++e)
      if (e < member * size || e >= (member + 1) * size) m(t, e) = value;
  }
};
}  // namespace detail

/// A token-choice router inside blocks: logits outside a row's block are the lowest number, scores there 0, as if the
/// router saw the E / members experts of the block alone. Its k counts experts of a block. The router must rank logits
/// (`ranks_logits`): a plan, a hash or experts that choose would look outside the block.
///
/// Noise may be inside or outside: WithBlocks{..., WithNoise{...}} and WithNoise{..., WithBlocks{...}} route alike.
/// Noise that divides by E, in WithBlocks{EnsembleBlocks{.members = M}, WithNoise{GaussianNoise{.std = M * s}, ...}}, has
/// the deviation s / (E / M) of a router of the block.
template <class R>
struct WithBlocks : R {
  static_assert(
      requires { requires R::ranks_logits; },
      "moxie::WithBlocks: the router must choose a token's experts by their logits alone, and say "
      "so by a static constexpr bool ranks_logits = true");
  static_assert(
      !requires(const R& r) { r.bias_rate(); },
      "moxie::WithBlocks: a bias for selection could lift experts outside a row's block");
  static constexpr bool ranks_with_bias = false;

  EnsembleBlocks blocks{};

  WithBlocks() = default;
  constexpr WithBlocks(EnsembleBlocks b, R base) : R(base), blocks(b) {}

  /// @throws config_error unless members divides the experts, rows >= 1, and the router accepts a block
  void check(Index experts) const {
    if (blocks.members < 1 || experts % blocks.members != 0)
      throw_config("moxie::EnsembleBlocks: members is ", blocks.members, ", expected a divisor of ",
                   experts, " (the number of experts)");
    if (blocks.rows < 1)
      throw_config("moxie::EnsembleBlocks: rows is ", blocks.rows, ", expected >= 1");
    if constexpr (requires(const R& r) { r.expert_groups; })
      if (R::expert_groups != 1)
        throw_config("moxie::EnsembleBlocks: the router's expert_groups is ", R::expert_groups,
                     ", expected 1: its groups are not the blocks");
    if constexpr (requires(const R& r) { r.check(experts); }) R::check(experts / blocks.members);
  }
  template <Backend B>
  void score(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    using T = typename B::Scalar;
    fill_outside(b, ctx, math::lowest<T>(), r.logits);
    if (r.noisy()) fill_outside(b, ctx, math::lowest<T>(), r.noisy_logits);  // of a noise outside
    R::score(b, ctx, r);
    fill_outside(b, ctx, T(0), r.probs);  // a float exponential does not underflow to 0
    if (!r.noisy()) return;
    fill_outside(b, ctx, math::lowest<T>(), r.noisy_logits);  // a noise inside may have moved them
    fill_outside(b, ctx, T(0), r.noisy_probs);
  }
  template <Backend B>
  void route(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    score(b, ctx, r);
    R::select(b, ctx, r);
    R::weigh(b, ctx, r);
  }

  friend constexpr bool operator==(const WithBlocks&, const WithBlocks&) = default;

 private:
  template <Backend B>
  void fill_outside(B& b, const Context<B>& ctx, typename B::Scalar value, Matrix<B> m) const {
    b.for_each(m.rows, detail::FillOutsideBlock<B>{ctx.first_token, blocks, value, m});
  }
};
template <class R>
WithBlocks(EnsembleBlocks, R) -> WithBlocks<R>;

}  // namespace moxie
