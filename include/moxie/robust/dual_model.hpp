#pragma once

#include <utility>

#include "moxie/layer/shared.hpp"
#include "moxie/robust/dual_mixture.hpp"

namespace moxie {

/// How a dual model mixes.
struct DualOptions {
  double alpha = 0.7;  ///< in [0, 1]; below 1/2 there is no certificate
  DualSpace space = DualSpace::logit;

  friend constexpr bool operator==(const DualOptions&, const DualOptions&) = default;
};

namespace detail {
inline void check_alpha(const char* who, double alpha) {
  if (!(alpha >= 0 && alpha <= 1))
    throw_config(who, ": alpha is ", alpha, ", expected one in [0, 1]");
}
}  // namespace detail

/// Two classifiers as one: a standard model and a robust one, mixed with weight alpha for the
/// robust one.
///   F_D(x) = (1 - alpha) F_S(x) + alpha F_R(x),   x [R, D], F [R, classes]
///
///   const auto root = moxie::root(backend);
///   DualModel model{Vit(root / "Standard", ...), Vit(root / "Robust", ...), {.alpha = 0.7}};
///   root.parameters->initialize(1);
///
/// Both lie in one model, each in its own Scope, so that a training step of the range "Robust"
/// leaves every bit of the standard model as it is. MoE layers are counted standard ones first.
/// Source: Zhang et al., "Optimizing Robustness and Accuracy in Mixture of Experts: A Dual-Model
/// Approach", 2025.
template <Layer S, Layer R>
class DualModel {
 public:
  using BackendType = typename R::BackendType;

 private:
  using B = BackendType;
  static_assert(std::same_as<typename S::BackendType, B>,
                "moxie: the two models of a dual model need the same backend");

 public:
  struct Tape {
    detail::PassState<B> state;
    typename S::Tape standard_tape;
    typename R::Tape robust_tape;
    Matrix<B> standard, robust;      // [R, classes] their scores
    Matrix<B> d_standard, d_robust;  // [R, classes]
    Matrix<B> dx;                    // [R, D] of the robust one
  };

  /// @throws config_error unless both have the same widths and lie in one model, or for alpha
  /// outside [0, 1]
  DualModel(S standard, R robust, const DualOptions& options = {})
      : standard_(std::move(standard)), robust_(std::move(robust)) {
    if (standard_.input_width() != robust_.input_width() ||
        standard_.output_width() != robust_.output_width())
      throw_config(who, ": the standard model maps ", standard_.input_width(), " numbers to ",
                   standard_.output_width(), " classes, the robust one ", robust_.input_width(),
                   " to ", robust_.output_width(), ", expected the same of both");
    if (&standard_.parameters() != &robust_.parameters())
      throw_config(who,
                   ": the two models have parameters of their own, expected scopes of one model");
    set_options(options);
  }

  const DualOptions& options() const { return options_; }
  /// For sweeps of alpha over trained models.
  void set_options(const DualOptions& options) {
    detail::check_alpha(who, options.alpha);
    options_ = options;
  }
  const S& standard() const { return standard_; }
  const R& robust() const { return robust_; }
  Index input_width() const { return robust_.input_width(); }
  Index output_width() const { return robust_.output_width(); }
  Parameters<B>& parameters() const { return robust_.parameters(); }
  Index moe_layers() const {
    return detail::moe_layers_of(standard_) + detail::moe_layers_of(robust_);
  }
  void visit_routing(Tape& t, RoutingVisitor<B>& visitor) const {
    detail::visit_routing_of(standard_, t.standard_tape, visitor);
    detail::visit_routing_of(robust_, t.robust_tape, visitor);
  }

  void bind(Arena<B>& arena, Index rows, Tape& t) const {
    using T = typename B::Scalar;
    const typename Arena<B>::Scope scope(arena);
    t.state.bind(arena, rows);
    t.d_standard = t.d_robust = t.dx = {};
    // Kept: a backward writes to the scratch of its parts before it has read the other's
    t.standard = arena.template kept<T>(rows, output_width());
    t.robust = arena.template kept<T>(rows, output_width());
    if (arena.wants_input()) {
      t.d_standard = arena.template scratch<T>(rows, output_width());
      t.d_robust = arena.template scratch<T>(rows, output_width());
      t.dx = arena.template scratch<T>(rows, input_width());
    }
    standard_.bind(arena, rows, t.standard_tape);
    robust_.bind(arena, rows, t.robust_tape);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward_of_parts(who, x, y, input_width(), output_width(), pass);
    const Matrix<B> standard = t.standard.top(x.rows);
    const Matrix<B> robust = t.robust.top(x.rows);
    standard_.forward(x, standard, t.standard_tape, pass);
    robust_.forward(x, robust, t.robust_tape,
                    pass.at_layer(pass.moe_layer + detail::moe_layers_of(standard_)));
    mix_scores(parameters().backend(), options_.space, options_.alpha, ConstMatrix<B>(standard),
               ConstMatrix<B>(robust), y);
    t.state.end_forward();
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward_of_parts(who, dy, dx, input_width(), output_width());
    const Index rows = dy.rows;
    const Matrix<B> d_standard = t.d_standard.top(rows);
    const Matrix<B> d_robust = t.d_robust.top(rows);
    mix_scores_backward(parameters().backend(), options_.space, options_.alpha,
                        ConstMatrix<B>(t.standard.top(rows)), ConstMatrix<B>(t.robust.top(rows)),
                        dy, d_standard, d_robust);
    Matrix<B> d_input;
    if (dx) d_input = t.dx.top(rows);
    robust_.backward(d_robust, d_input, t.robust_tape);
    standard_.backward(d_standard, dx, t.standard_tape);
    if (dx) add_rows(parameters().backend(), ConstMatrix<B>(dx), ConstMatrix<B>(d_input), dx);
  }

 private:
  static constexpr const char* who = "moxie::DualModel";
  S standard_;
  R robust_;
  DualOptions options_;
};

}  // namespace moxie
