#pragma once

#include <vector>

#include "moxie/ops/cross_entropy.hpp"
#include "moxie/train/objective.hpp"

namespace moxie {

/// Cross-entropy of one pass: the mean over images of the softmax cross-entropy (fine-tuning) or of
/// the sum over classes of the sigmoid cross-entropy (V-MoE from scratch).
struct Supervised {
  enum class Loss { softmax, sigmoid };
  Loss loss = Loss::softmax;

  template <Layer M>
  struct State {
    using B = typename M::BackendType;
    typename M::Tape tape;
    Matrix<B> scores, d_scores;  ///< [images, classes], of the last batch
    Vector<B> losses;            ///< [images], of the last batch; without regularizers

    /// The losses on the host. Blocks.
    std::vector<typename B::Scalar> read_losses(B& backend) const {
      std::vector<typename B::Scalar> host(static_cast<std::size_t>(losses.size));
      backend.copy_to_host(host.data(), losses.data, host.size() * sizeof(typename B::Scalar));
      return host;
    }

   private:
    friend Supervised;
    Index bound = 0;
  };

  template <Layer M>
  void bind(Arena<typename M::BackendType>& arena, const M& model, Index images,
            State<M>& state) const {
    using T = typename M::BackendType::Scalar;
    const Index classes = model.output_width();
    state.bound = images;
    state.scores = arena.template kept<T>(images, classes);
    state.d_scores = arena.template kept<T>(images, classes);
    state.losses = arena.template kept<T>(images);
    model.bind(arena, images, state.tape);
  }

  /// Errors: shape_error for labels of another shape than the scores, or more images than the state
  /// has room for.
  template <Layer M>
  void accumulate(const M& model, const Batch<typename M::BackendType>& batch, State<M>& state,
                  const Pass<typename M::BackendType>& pass) const {
    using B = typename M::BackendType;
    const Index images = batch.x.rows;
    if (batch.labels.rows != images || batch.labels.cols != model.output_width())
      throw_shape("moxie::Supervised::accumulate: labels are [", batch.labels.rows, " x ",
                  batch.labels.cols, "], expected [", images, " x ", model.output_width(), "]");
    if (images > state.bound)
      throw_shape("moxie::Supervised::accumulate: the batch has ", images,
                  " images, the state was made for at most ", state.bound);
    state.scores.rows = state.d_scores.rows = state.losses.size = images;
    model.forward(batch.x, state.scores, state.tape, pass);
    B& backend = model.parameters().backend();
    if (loss == Loss::softmax) {
      softmax_cross_entropy(backend, state.scores, batch.labels, state.losses, state.d_scores);
    } else {
      sigmoid_cross_entropy(backend, state.scores, batch.labels, state.losses, state.d_scores);
    }
    model.backward(state.d_scores, {}, state.tape);
  }

  friend constexpr bool operator==(const Supervised&, const Supervised&) = default;
};

}  // namespace moxie
