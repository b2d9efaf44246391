#pragma once

#include <array>
#include <string_view>

#include "moxie/robust/apgd.hpp"
#include "moxie/robust/fab.hpp"
#include "moxie/robust/square.hpp"

namespace moxie {

/// The standard ensemble of AutoAttack in L-infinity, each attack on the points that the ones
/// before it left standing: APGD on the cross-entropy, targeted APGD on DLR, targeted FAB, Square.
/// A point is robust if all four fail.
///
/// It wants scores before the softmax, or log-probabilities: probabilities saturate, and then
/// attacks see no gradient. DLR needs four classes where it is targeted: with three, its untargeted
/// form stands in for it; with two, the cross-entropy from another start (State::stages says what
/// ran).
/// Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of
/// diverse parameter-free attacks", 2020.
struct AutoAttack {
  Threat threat{};
  Index height = 32, width = 32, channels = 3;  ///< of an image, channels last
  int iterations = 100;                         ///< of APGD and FAB
  int targets = 9;                              ///< of the targeted ones, at most classes - 1
  int queries = 5000;                           ///< of Square

  /// What one attack of the ensemble left.
  struct Stage {
    std::string_view name;
    Index standing = 0;  ///< points of the last batch still classified right after it
  };
  template <AttackTarget M>
  struct State {
    Apgd::State<M> apgd;
    FabTargeted::State<M> fab;
    Square::State<M> square;
    std::array<Stage, 4> stages{};

   private:
    friend AutoAttack;
    detail::ActivePoints<typename M::BackendType> standing_;
  };

  /// The parts, in their order.
  Apgd first() const { return {.threat = threat, .iterations = iterations}; }
  Apgd second(Index classes) const {
    Apgd a = first();
    a.targets = targets;
    a.loss = classes >= 4   ? AttackLoss::targeted_dlr
             : classes == 3 ? AttackLoss::dlr
                            : AttackLoss::cross_entropy;
    return a;
  }
  FabTargeted third() const {
    return {.threat = threat, .iterations = iterations, .targets = targets};
  }
  Square fourth() const {
    return {.threat = threat,
            .height = height,
            .width = width,
            .channels = channels,
            .queries = queries};
  }

  /// The attacks run one after the other and share their memory.
  template <AttackTarget M>
  void bind(Arena<typename M::BackendType>& arena, const M& target, Index images,
            State<M>& s) const {
    using B = typename M::BackendType;
    s.standing_.bind(arena, images);
    Arena<B> measure(Gradients::input);
    std::size_t most = 0;
    const auto all = [&](Arena<B>& memory) {
      const auto part = [&](const auto& attack, auto& state) {
        memory.rewind();
        attack.bind(memory, target, images, state);
      };
      part(first(), s.apgd);
      part(second(target.classes()), s.apgd);  // a superset of what the first needs
      part(third(), s.fab);
      part(fourth(), s.square);
      most = memory.peak();
    };
    all(measure);
    Arena<B> memory = arena.block(most);
    all(memory);
  }

  /// See Attack::run. Blocks after each attack.
  template <AttackTarget M, class B = typename M::BackendType>
  void run(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x_adv,
           IntVector<B> standing) const {
    const Index classes = target.classes();
    constexpr std::string_view seconds[] = {"apgd-ce", "apgd-dlr", "apgd-t"};
    const auto stage = [&](std::size_t i, std::string_view name) {
      s.standing_.select(target.backend(), standing);
      s.stages[i] = {name, s.standing_.count()};
    };
    first().run(target, batch, s.apgd, x_adv, standing);
    stage(0, "apgd-ce");
    AttackBatch<B> again = batch;
    again.seed ^= stream_id("robust/auto_attack/second");
    second(classes).run(target, again, s.apgd, x_adv, standing);
    stage(1, seconds[classes >= 4 ? 2 : classes - 2]);
    third().run(target, batch, s.fab, x_adv, standing);
    stage(2, "fab-t");
    fourth().run(target, batch, s.square, x_adv, standing);
    stage(3, "square");
  }

  friend constexpr bool operator==(const AutoAttack&, const AutoAttack&) = default;
};

}  // namespace moxie
