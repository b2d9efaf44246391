#pragma once

#include <vector>

#include "moxie/ops/cross_entropy.hpp"
#include "moxie/train/objective.hpp"
#include "moxie/train/training_attack.hpp"

namespace moxie {

/// Plain adversarial training: the mean cross-entropy of perturbed images, the whole model attacked
/// at once. The gradient is that at the perturbed images; none goes through the attack.
/// Labels may be smoothed or mixed: the attack takes the class of the largest.
/// Cost: attack.pgd.steps passes with gradients of the images alone, and a training pass. Source:
/// Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018.
struct Adversarial {
  TrainingAttack attack{};

  template <Layer M>
  struct State {
    using B = typename M::BackendType;
    typename M::Tape tape;       ///< of the pass over the perturbed images
    Matrix<B> scores, d_scores;  ///< [images, classes], of the perturbed images of the last batch
    Vector<B> losses;            ///< [images], of the last batch; without regularizers
    Matrix<B> x_adv;             ///< [images, D]

    /// The losses on the host. Blocks.
    std::vector<typename B::Scalar> read_losses(B& backend) const {
      return detail::read_vector(backend, losses);
    }

   private:
    friend Adversarial;
    detail::StepAttack<M> attacked;
    Index bound = 0;
  };

  /// @throws config_error for an attack that makes no sense
  template <Layer M>
  void bind(Arena<typename M::BackendType>& arena, const M& model, Index images,
            State<M>& state) const {
    using B = typename M::BackendType;
    using T = typename B::Scalar;
    detail::check_training_attack(who, attack);
    state.bound = images;
    state.scores = arena.template kept<T>(images, model.output_width());
    state.d_scores = arena.template kept<T>(images, model.output_width());
    state.losses = arena.template kept<T>(images);
    state.x_adv = arena.template kept<T>(images, model.input_width());
    state.attacked.bind(arena, attack, model, images,
                        [&](Arena<B>& a) { model.bind(a, images, state.tape); });
  }

  /// Errors: shape_error for labels of another shape than the scores, or more images than the state
  /// has room for.
  template <Layer M>
  void accumulate(const M& model, const Batch<typename M::BackendType>& batch, State<M>& state,
                  const Pass<typename M::BackendType>& pass) const {
    using B = typename M::BackendType;
    detail::check_objective(who, model, batch, state.bound);
    B& b = model.parameters().backend();
    const Index images = batch.x.rows;
    state.scores.rows = state.d_scores.rows = state.losses.size = state.x_adv.rows = images;
    state.attacked.begin(batch);
    state.attacked(attack, batch, pass, 0, state.x_adv);
    model.forward(ConstMatrix<B>(state.x_adv), state.scores, state.tape, pass);
    softmax_cross_entropy(b, ConstMatrix<B>(state.scores), batch.labels, state.losses,
                          state.d_scores);
    model.backward(ConstMatrix<B>(state.d_scores), {}, state.tape);
  }

  friend constexpr bool operator==(const Adversarial&, const Adversarial&) = default;

 private:
  static constexpr const char* who = "moxie::Adversarial";
};

}  // namespace moxie
