#pragma once

#include "moxie/ops/add_rows.hpp"
#include "moxie/train/adversarial.hpp"

namespace moxie {

/// TRADES: the cross-entropy of clean images, and beta times how far the scores of perturbed images
/// are from theirs.
///   mean over images of  CE(F(x), y) + beta KL(softmax F(x) || softmax F(x + delta))
/// delta drives this KL up, by attack.pgd from a random point (at the image itself the KL has no
/// gradient). Gradients go through both arguments. Source: Zhang et al., "Theoretically Principled
/// Trade-off between Robustness and Accuracy", 2019.
struct Trades {
  TrainingAttack attack{};
  double beta = 6;

  template <Layer M>
  struct State {
    using B = typename M::BackendType;
    typename M::Tape tape;       ///< of the pass over the clean images
    Matrix<B> scores, d_scores;  ///< [images, classes], of the clean images of the last batch
    Vector<B> losses;            ///< [images] cross-entropy; without regularizers
    Vector<B> consistency;       ///< [images] KL, without beta
    Matrix<B> x_adv;             ///< [images, D]

    /// The losses on the host: of each image all but the regularizers. Blocks.
    std::vector<typename B::Scalar> read_losses(B& backend) const {
      return detail::read_sum(backend, losses, beta, consistency);
    }

   private:
    friend Trades;
    double beta = 0;
    detail::StepAttack<M> attacked;
    typename M::Tape adv_tape;
    Matrix<B> adv_scores, d_adv, d_clean;
    Index bound = 0;
  };

  /// @throws config_error for an attack or a beta that makes no sense
  template <Layer M>
  void bind(Arena<typename M::BackendType>& arena, const M& model, Index images,
            State<M>& state) const {
    using B = typename M::BackendType;
    using T = typename B::Scalar;
    detail::check_training_attack(who, attack);
    if (!(beta >= 0 && math::is_finite(beta)))
      throw_config(who, ": beta is ", beta, ", expected a finite number >= 0");
    if (!attack.pgd.random_start && !attack.corner_start)
      throw_config(who,
                   ": attack.pgd.random_start is false, expected true: at the image itself the "
                   "divergence from its own scores has no gradient");
    state.bound = images;
    state.beta = beta;
    const auto scores = [&] { return arena.template kept<T>(images, model.output_width()); };
    for (Matrix<B>* m :
         {&state.scores, &state.d_scores, &state.adv_scores, &state.d_adv, &state.d_clean})
      *m = scores();
    state.losses = arena.template kept<T>(images);
    state.consistency = arena.template kept<T>(images);
    state.x_adv = arena.template kept<T>(images, model.input_width());
    state.attacked.bind(arena, attack, model, images, [&](Arena<B>& a) {
      model.bind(a, images, state.tape);
      model.bind(a, images, state.adv_tape);
    });
  }

  /// Errors: as those of Adversarial.
  template <Layer M>
  void accumulate(const M& model, const Batch<typename M::BackendType>& batch, State<M>& state,
                  const Pass<typename M::BackendType>& pass) const {
    using B = typename M::BackendType;
    detail::check_objective(who, model, batch, state.bound);
    B& b = model.parameters().backend();
    const Index images = batch.x.rows;
    for (Matrix<B>* m : {&state.scores, &state.d_scores, &state.adv_scores, &state.d_adv,
                         &state.d_clean, &state.x_adv})
      m->rows = images;
    state.losses.size = state.consistency.size = images;
    state.attacked.begin(batch);
    // The attack's own view of the clean images: evaluated, while the passes below train
    auto& target = state.attacked.target();
    target.scores(batch.x, state.attacked.y(), state.d_clean);
    target.flee(ConstMatrix<B>(state.d_clean));
    state.attacked(attack, batch, pass, 0, state.x_adv);
    model.forward(batch.x, state.scores, state.tape, pass);
    model.forward(ConstMatrix<B>(state.x_adv), state.adv_scores, state.adv_tape,
                  pass.without_regularizers());
    softmax_cross_entropy(b, ConstMatrix<B>(state.scores), batch.labels, state.losses,
                          state.d_scores);
    kl_divergence(b, ConstMatrix<B>(state.scores), ConstMatrix<B>(state.adv_scores),
                  state.consistency, state.d_clean, state.d_adv, beta);
    add_rows(b, ConstMatrix<B>(state.d_scores), ConstMatrix<B>(state.d_clean), state.d_scores);
    model.backward(ConstMatrix<B>(state.d_adv), {}, state.adv_tape);
    model.backward(ConstMatrix<B>(state.d_scores), {}, state.tape);
  }

  friend constexpr bool operator==(const Trades&, const Trades&) = default;

 private:
  static constexpr const char* who = "moxie::Trades";
};

}  // namespace moxie
