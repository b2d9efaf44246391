#pragma once

#include <variant>
#include <vector>

#include "moxie/train/rt_er.hpp"
#include "moxie/train/supervised.hpp"
#include "moxie/train/trades.hpp"

namespace vmoe {

/// A training objective chosen when the program runs. It models moxie::Objective.
struct TrainObjective {
  std::variant<moxie::Supervised, moxie::Adversarial, moxie::Trades, moxie::RtEr> of;

  template <moxie::Layer M>
  struct State {
    using B = typename M::BackendType;
    std::variant<moxie::Supervised::State<M>, moxie::Adversarial::State<M>, moxie::Trades::State<M>,
                 moxie::RtEr::State<M>>
        held;

    /// Scores [images, classes] of the pass that the cross-entropy is of: over perturbed images in
    /// adversarial training and RT-ER.
    moxie::ConstMatrix<B> scores() const {
      return std::visit([](const auto& s) { return moxie::ConstMatrix<B>(s.scores); }, held);
    }
    /// Of that pass: for visitors of routing.
    typename M::Tape& tape() {
      return std::visit([](auto& s) -> typename M::Tape& { return s.tape; }, held);
    }
    /// The loss of each image, without regularizers. Blocks.
    std::vector<typename B::Scalar> read_losses(B& backend) const {
      return std::visit([&](const auto& s) { return s.read_losses(backend); }, held);
    }
    /// Divergences of the images, empty for an objective without. Blocks.
    std::vector<typename B::Scalar> read_consistency(B& backend) const {
      return std::visit(
          [&](const auto& s) -> std::vector<typename B::Scalar> {
            if constexpr (requires { s.consistency; }) {
              return moxie::detail::read_vector(backend, s.consistency);
            } else {
              return {};
            }
          },
          held);
    }
  };

  template <moxie::Layer M>
  void bind(moxie::Arena<typename M::BackendType>& arena, const M& model, moxie::Index images,
            State<M>& state) const {
    std::visit(
        [&]<class O>(const O& objective) {
          using Own = typename O::template State<M>;
          if (!std::holds_alternative<Own>(state.held)) state.held.template emplace<Own>();
          objective.bind(arena, model, images, std::get<Own>(state.held));
        },
        of);
  }
  template <moxie::Layer M>
  void accumulate(const M& model, const moxie::Batch<typename M::BackendType>& batch,
                  State<M>& state, const moxie::Pass<typename M::BackendType>& pass) const {
    std::visit(
        [&]<class O>(const O& objective) {
          using Own = typename O::template State<M>;
          objective.accumulate(model, batch, std::get<Own>(state.held), pass);
        },
        of);
  }
};

}  // namespace vmoe
