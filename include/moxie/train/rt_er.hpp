#pragma once

#include "moxie/layer/shared.hpp"
#include "moxie/ops/add_rows.hpp"
#include "moxie/train/adversarial.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct CopyFirstChoice {
  static constexpr bool one_level = true;
  ConstIntMatrix<B> from;
  IntMatrix<B> to;

  MOXIE_HD void operator()(Index t) const { to(t, 0) = from(t, 0); }
};

/// Notes how many experts and tokens a pass had, and each token's first choice if it is wanted.
template <Backend B>
class NoteChoice final : public RoutingVisitor<B> {
 public:
  /// choice: [tokens, 1], or empty
  NoteChoice(B& backend, IntMatrix<B> choice) : backend_(&backend), choice_(choice) {}
  void sparse(const SparseRouting<B>& r) override {
    experts = r.shape.experts;
    tokens = r.shape.tokens;
    if (tokens == choice_.rows)
      backend_->for_each(tokens, CopyFirstChoice<B>{ConstIntMatrix<B>(r.choice), choice_});
  }
  Index experts = 0, tokens = 0;

 private:
  B* backend_;
  IntMatrix<B> choice_;
};

template <Backend B>
struct FillChoice {
  static constexpr bool one_level = true;
  std::int32_t expert;
  IntMatrix<B> choice;

  MOXIE_HD void operator()(Index t) const { choice(t, 0) = expert; }
};

template <Backend B>
struct AddScaled {
  typename B::Scalar by;
  ConstVector<B> from;
  Vector<B> to;

  MOXIE_HD void operator()(Index i) const { to[i] += by * from[i]; }
};
}  // namespace detail

/// RT-ER, robust training with expert robustness, for a mixture F of experts f_e:
///   mean over images of  CE(F(x + delta), y) + beta sum over e of KL(softmax f_e(x) || softmax
///   f_e(x + delta_e))
/// where e is the expert that the router ranks second for the clean image, or runs over all of
/// them. Experts are the weak part of a mixture, and the second is where a router that is pushed
/// goes.
///
/// Scope::image_expert: the model routes whole images (a MoeLayer of Networks, one token an image,
/// its router of token choice), and f_e(x) are the scores of expert e alone, with weight 1; no
/// gradient of this term reaches the router. Scope::forced_second, for transformers whose experts
/// give features: f_2 is the whole network in which, in every MoE layer, each token goes to the
/// expert that its own router ranks second in that pass, alone and with that expert's gate.
///
/// Gradients go through both arguments of the divergence (unless detach_clean), none through an
/// attack. The images of the whole model are perturbed in evaluation mode, as those of the experts,
/// which find their own delta on their own cross-entropy.
/// Cost: with own deltas (1 + experts) attacks, and 1 + 2 experts training passes.
/// Source: Zhang et al., "Optimizing Robustness and Accuracy in Mixture of Experts: A Dual-Model
/// Approach", 2025; what its code does differently stands in docs/rt_er.md.
struct RtEr {
  enum class Experts {
    second,
    all,      ///< the sum over the experts, as released with JTDMoE
    all_mean  ///< their mean
  };
  enum class Delta {
    own,    ///< an attack on each expert (released)
    shared  ///< that on the whole model (published)
  };
  enum class Scope { image_expert, forced_second };

  TrainingAttack attack{};
  double beta = 6;
  Experts experts = Experts::second;
  Delta delta = Delta::own;
  Scope scope = Scope::image_expert;
  bool detach_clean = false;

  template <Layer M>
  struct State {
    using B = typename M::BackendType;
    typename M::Tape tape;       ///< of the pass over the perturbed images
    Matrix<B> scores, d_scores;  ///< [images, classes], of the perturbed images of the last batch
    Vector<B> losses;            ///< [images] cross-entropy; without regularizers
    Vector<B> consistency;       ///< [images] sum (or mean) of the divergences, without beta
    Matrix<B> x_adv;             ///< [images, D] against the whole model
    Matrix<B> x_expert;          ///< [images, D] against the last expert
    IntMatrix<B> choice;         ///< [images, 1] the experts of the last divergence

    /// The losses on the host: of each image all but the regularizers. Blocks.
    std::vector<typename B::Scalar> read_losses(B& backend) const {
      return detail::read_sum(backend, losses, beta, consistency);
    }

   private:
    friend RtEr;
    double beta = 0;
    detail::StepAttack<M> attacked;
    Vector<B> divergence;  // [images] of one expert
    typename M::Tape clean_tape, adv_tape;
    Matrix<B> clean_scores, adv_scores, d_clean, d_adv;
    std::vector<Routes<B>> routes;
    Index bound = 0;
  };

  /// @throws config_error for an attack or a beta that makes no sense, or a scope that does not fit
  /// the model
  template <Layer M>
  void bind(Arena<typename M::BackendType>& arena, const M& model, Index images,
            State<M>& state) const {
    using B = typename M::BackendType;
    using T = typename B::Scalar;
    check(detail::moe_layers_of(model));
    state.bound = images;
    state.beta = beta;
    state.routes.assign(static_cast<std::size_t>(detail::moe_layers_of(model)), {});
    for (Matrix<B>* m : {&state.scores, &state.d_scores, &state.clean_scores, &state.adv_scores,
                         &state.d_clean, &state.d_adv})
      *m = arena.template kept<T>(images, model.output_width());
    for (Vector<B>* v : {&state.losses, &state.consistency, &state.divergence})
      *v = arena.template kept<T>(images);
    state.x_adv = arena.template kept<T>(images, model.input_width());
    state.x_expert =
        delta == Delta::own ? arena.template kept<T>(images, model.input_width()) : state.x_adv;
    state.choice = arena.template kept<std::int32_t>(images, 1);
    model.bind(arena, images, state.tape);
    state.attacked.bind(arena, attack, model, images, [&](Arena<B>& a) {
      model.bind(a, images, state.clean_tape);
      model.bind(a, images, state.adv_tape);
    });
  }

  /// Errors: as those of Adversarial; config_error if the model's MoE layer does not route images,
  /// or, of the second expert, has one alone or a router without ranks.
  template <Layer M>
  void accumulate(const M& model, const Batch<typename M::BackendType>& batch, State<M>& state,
                  const Pass<typename M::BackendType>& pass) const {
    using B = typename M::BackendType;
    detail::check_objective(who, model, batch, state.bound);
    B& b = model.parameters().backend();
    resize(state, batch.x.rows);
    state.attacked.begin(batch);
    b.fill(state.consistency, 0);
    Index all = 1;
    if (beta > 0) all = begin_routes(model, batch, state);
    state.attacked.target().set_routes({});
    state.attacked(attack, batch, pass, 0, state.x_adv);
    model.forward(ConstMatrix<B>(state.x_adv), state.scores, state.tape, pass);
    softmax_cross_entropy(b, ConstMatrix<B>(state.scores), batch.labels, state.losses,
                          state.d_scores);
    model.backward(ConstMatrix<B>(state.d_scores), {}, state.tape);
    if (!(beta > 0)) return;
    const bool every = experts != Experts::second;
    const Index rounds = every ? all : 1;
    const double share = experts == Experts::all_mean ? 1.0 / static_cast<double>(all) : 1.0;
    for (Index e = 0; e < rounds; ++e) {
      if (every)
        b.for_each(batch.x.rows, detail::FillChoice<B>{static_cast<std::int32_t>(e), state.choice});
      if (delta == Delta::own) {
        state.attacked.target().set_routes(state.routes);
        state.attacked(attack, batch, pass, 1 + static_cast<std::uint64_t>(e), state.x_expert);
      }
      diverge(model, batch, state, pass.without_regularizers().with(state.routes), share);
    }
  }

  friend constexpr bool operator==(const RtEr&, const RtEr&) = default;

 private:
  static constexpr const char* who = "moxie::RtEr";
  void check(Index moe_layers) const {
    detail::check_training_attack(who, attack);
    if (!(beta >= 0 && math::is_finite(beta)))
      throw_config(who, ": beta is ", beta, ", expected a finite number >= 0");
    if (scope == Scope::image_expert && moe_layers != 1)
      throw_config(who, ": the model has ", moe_layers,
                   " MoE layers, expected one that routes whole images (for a transformer take "
                   "Scope::forced_second)");
    if (scope == Scope::forced_second && moe_layers == 0)
      throw_config(who, ": the model has no MoE layer");
    if (scope == Scope::forced_second && experts != Experts::second)
      throw_config(who,
                   ": Scope::forced_second knows the second expert of each token alone, "
                   "expected Experts::second");
  }
  template <Layer M>
  void resize(State<M>& s, Index images) const {
    for (auto* m : {&s.scores, &s.d_scores, &s.clean_scores, &s.adv_scores, &s.d_clean, &s.d_adv,
                    &s.x_adv, &s.x_expert})
      m->rows = images;
    s.losses.size = s.consistency.size = s.divergence.size = s.choice.rows = images;
  }
  /// Sets the routes of the divergence, and gives the number of experts.
  template <Layer M>
  Index begin_routes(const M& model, const Batch<typename M::BackendType>& batch,
                     State<M>& s) const {
    using B = typename M::BackendType;
    using Weights = typename Routes<B>::Weights;
    for (Routes<B>& r : s.routes)
      r = Routes<B>{.weights = scope == Scope::image_expert ? Weights::unit : Weights::gate,
                    .rank = 1};
    if (scope == Scope::forced_second) return 1;
    auto& target = s.attacked.target();
    // All experts need no rank, which a router may not have
    const bool second = experts == Experts::second;
    if (second) {
      target.set_routes(s.routes);
    } else {
      target.set_routes({});
    }
    target.scores(batch.x, s.attacked.y(), s.clean_scores);
    detail::NoteChoice<B> note(target.backend(), second ? s.choice : IntMatrix<B>{});
    detail::visit_routing_of(model, target.tape(), note);
    if (note.tokens != batch.x.rows)
      throw_config(who, ": the model's MoE layer routes ", note.tokens, " tokens of ", batch.x.rows,
                   " images, expected one an image (for a transformer take Scope::forced_second)");
    s.routes[0] = Routes<B>{.choice = s.choice, .weights = Weights::unit};
    return note.experts;
  }
  template <Layer M, class B = typename M::BackendType>
  void diverge(const M& model, const Batch<B>& batch, State<M>& s, const Pass<B>& pass,
               double share) const {
    B& b = model.parameters().backend();
    Pass<B> clean = pass;
    if (detach_clean) clean.gradients = Gradients::none;
    model.forward(batch.x, s.clean_scores, s.clean_tape, clean);
    model.forward(ConstMatrix<B>(s.x_expert), s.adv_scores, s.adv_tape, pass);
    kl_divergence(b, ConstMatrix<B>(s.clean_scores), ConstMatrix<B>(s.adv_scores), s.divergence,
                  detach_clean ? Matrix<B>{} : s.d_clean, s.d_adv, beta * share);
    model.backward(ConstMatrix<B>(s.d_adv), {}, s.adv_tape);
    if (!detach_clean) model.backward(ConstMatrix<B>(s.d_clean), {}, s.clean_tape);
    b.for_each(s.divergence.size, detail::AddScaled<B>{static_cast<typename B::Scalar>(share),
                                                       s.divergence, s.consistency});
  }
};

}  // namespace moxie
