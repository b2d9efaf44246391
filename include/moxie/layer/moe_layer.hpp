#pragma once

#include <algorithm>
#include <array>
#include <string_view>
#include <tuple>
#include <vector>

#include "moxie/capacity/assign.hpp"
#include "moxie/dispatch/gather.hpp"
#include "moxie/expert/concept.hpp"
#include "moxie/gate/linear.hpp"
#include "moxie/layer/tape.hpp"
#include "moxie/ops/first_non_finite.hpp"
#include "moxie/ops/top_k.hpp"
#include "moxie/regularizer/concept.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/routing/record.hpp"

namespace moxie {

/// Sizes of a MoE layer. Capacity is decided inside `group` consecutive tokens.
struct MoeShape {
  Index width = 0;    ///< D
  Index experts = 0;  ///< E
  Index group = 0;    ///< S; 0 = all tokens of the pass
  std::uint64_t seed = 0;  ///< of the initial parameters, if the layer owns them
};

namespace detail {
template <class R>
struct DispatcherOf {
  using type = GatherDispatcher;
};
template <class R>
  requires requires { typename R::DispatcherType; }
struct DispatcherOf<R> {
  using type = typename R::DispatcherType;
};
template <class R>
struct GateOf {
  using type = LinearGate;
};
template <class R>
  requires requires { typename R::GateType; }
struct GateOf<R> {
  using type = typename R::GateType;
};

template <Backend B>
struct CopyGivenRow {  // choices from outside; columns that are not given become -1
  ConstIntMatrix<B> given;
  ConstIntVector<B> mask;
  IntMatrix<B> choice;

  MOXIE_HD void operator()(Index t) const {
    const bool padding = mask && mask[t] == 0;
    for (Index k = 0; k < choice.cols; ++k)
      choice(t, k) = k < given.cols && !padding ? given(t, k) : -1;
  }
};
template <Backend B>
struct CopyGivenWeight {
  ConstIntMatrix<B> choice;
  ConstMatrix<B> given;  // empty: 1
  Matrix<B> weight;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    for (Index k = 0; k < weight.cols; ++k) {
      if (choice(t, k) < 0) {
        weight(t, k) = 0;
      } else {
        weight(t, k) = given ? given(t, k) : T(1);
      }
    }
  }
};
template <Backend B>
struct RecordRow {
  SparseRouting<B> r;
  IntMatrix<B> choice;
  Matrix<B> weight;

  MOXIE_HD void operator()(Index t) const {
    for (Index k = 0; k < choice.cols; ++k) {
      const bool kept = r.row(t, k) >= 0;
      choice(t, k) = kept ? r.choice(t, k) : -1;
      weight(t, k) = kept ? r.weight(t, k) : typename B::Scalar(0);
    }
  }
};
}  // namespace detail

/// A mixture-of-experts layer: gate, router, capacity, dispatch, experts, combine, and losses on its routing.
///
/// Its first argument is where it lives: a backend (the layer owns its parameters, initialized from `shape.seed`) or a
/// Scope of a larger model. A token that no expert took leaves its row of y zero: residual connections belong to
/// the caller. Regularizers run in training passes that ask for them; their gradients are added in backward, and
/// `read_losses` gives their values.
///
/// Thread safety: forward and backward are const; one tape belongs to one pass at a time.
template <Backend B, class R, Capacity C, class X, class... A>
class MoeLayer {
  static_assert(Router<R, B>, "moxie::MoeLayer: the router must model moxie::Router (router/concept.hpp)");
  static_assert(Expert<X, B>, "moxie::MoeLayer: the expert must model moxie::Expert (expert/concept.hpp)");
  static_assert((Regularizer<A, B, RoutingOf<R, B>> && ...),
                "moxie::MoeLayer: a regularizer must model moxie::Regularizer for this kind of routing "
                "(regularizer/concept.hpp)");
  using T = typename B::Scalar;
  using RoutingType = RoutingOf<R, B>;
  using DispatcherType = typename detail::DispatcherOf<R>::type;
  using GateType = typename detail::GateOf<R>::type;
  static_assert(Dispatcher<DispatcherType, B> && Gate<GateType, B>);

 public:
  using BackendType = B;
  static constexpr std::size_t regularizers = sizeof...(A);

  /// Memory and notes of one pass.
  struct Tape {
    Gradients gradients = Gradients::all;
    Index bound = 0;
    RoutingType routing;
    RoutingGradients<RoutingType> d;
    AssignMemory<B> assign;
    typename DispatcherType::template Tape<B> dispatch;
    typename X::template Tape<B> expert;
    Matrix<B> rows, d_rows;
    Scratch<B> check;
    std::array<Vector<B>, regularizers> sums;
    std::array<Index, regularizers> bound_sums{};
    Vector<B> losses;
    // of the last forward
    Context<B> context;
    ConstMatrix<B> x;
    Rows<B> dispatched;
    bool frozen = false;
    bool regularized = false;
  };

  /// Owns its parameters.   @throws config_error for sizes or hyper-parameters that make no sense
  MoeLayer(B& backend, MoeShape shape, R router, C capacity, X expert, A... regularizer)
      : MoeLayer(root(backend), shape, router, capacity, expert, regularizer...) {
    scope_.parameters->initialize(shape.seed);
  }
  /// Is part of a model; the model initializes its parameters.
  MoeLayer(Scope<B> scope, MoeShape shape, R router, C capacity, X expert, A... regularizer)
      : scope_(std::move(scope)),
        shape_(shape),
        router_(router),
        capacity_(capacity),
        expert_(expert),
        regularizers_(regularizer...) {
    if constexpr (requires { router.dispatcher; }) dispatcher_ = router.dispatcher;
    if constexpr (requires { router.gate; }) gate_ = router.gate;
    if (shape.width < 1)
      throw_config("moxie::MoeLayer: shape.width is ", shape.width, ", expected >= 1");
    if (shape.experts < 1)
      throw_config("moxie::MoeLayer: shape.experts is ", shape.experts, ", expected >= 1");
    if (shape.group < 0)
      throw_config("moxie::MoeLayer: shape.group is ", shape.group,
                   ", expected >= 0 (0 = all tokens of the pass)");
    if constexpr (requires { router.check(shape.experts); }) router.check(shape.experts);
    // The rule is asked here, so that one that makes no sense fails now and not in the first pass. Without a fixed
    // group it is asked for a large one: whether a small one has slots is known when it comes.
    for (const Mode mode : {Mode::train, Mode::eval})
      (void)slots(shape.group > 0 ? shape.group : shape.experts << 20, mode);
    gate_.declare(scope_, shape.width, shape.experts, gate_state_);
    expert_.declare(scope_, {shape.experts, shape.width}, expert_state_);
  }

  Index input_width() const noexcept { return shape_.width; }
  Index output_width() const { return expert_.output_width(shape_.width); }
  const MoeShape& shape() const noexcept { return shape_; }
  const R& router() const noexcept { return router_; }
  const C& capacity() const noexcept { return capacity_; }
  Parameters<B>& parameters() const noexcept { return *scope_.parameters; }
  Index moe_layers() const noexcept { return 1; }

  /// Sizes of the routing of a pass over `tokens` tokens.
  /// @throws shape_error if tokens is not a multiple of the group
  RoutingShape routing_shape(Index tokens, Mode mode) const {
    const Index group = shape_.group > 0 ? shape_.group : tokens;
    if (group > 0 && tokens % group != 0)
      throw_shape("moxie::MoeLayer: ", tokens, " tokens are not a multiple of the group of ", group,
                  " (shape.group)");
    RoutingShape s{.tokens = tokens,
                   .experts = shape_.experts,
                   .choices = router_.choices(shape_.experts),
                   .group = group};
    s.capacity = tokens > 0 ? slots(group, mode) : 0;
    s.assignments = router_.assignments(s);
    s.rows = rows_of(s);
    return s;
  }

  OwnedTape<MoeLayer> make_tape(Index tokens, Gradients gradients = Gradients::all) const {
    return {*this, tokens, gradients};
  }

  void bind(Arena<B>& arena, Index tokens, Tape& t) const {
    typename Arena<B>::Scope scope(arena);
    t.gradients = arena.gradients();
    // A tape may be made for more tokens than whole groups.
    t.bound = shape_.group > 0 ? tokens / shape_.group * shape_.group : tokens;
    RoutingShape s = routing_shape(t.bound, Mode::train);
    // By capacity, not by rows: a dispatcher that pads to the capacity may need more for as many rows.
    if (const RoutingShape eval = routing_shape(t.bound, Mode::eval); eval.capacity > s.capacity)
      s = eval;
    B& b = backend();
    bind_routing(arena, s, t);
    bind_dispatch(arena, s, t);
    const Index rows = dispatcher_.rows(s);
    t.rows = arena.template saved<T>(rows, output_width());
    if (arena.wants_input()) {
      t.d_rows = arena.template scratch<T>(rows, shape_.width);
      t.d.logits = arena.template scratch<T>(s.tokens, s.experts);
      t.d.probs = arena.template scratch<T>(s.tokens, s.experts);
      t.d.noisy_probs =
          wants_noise() ? arena.template scratch<T>(s.tokens, s.experts) : t.d.probs;
      t.d.weight = arena.template scratch<T>(t.routing.weight.rows, t.routing.weight.cols);
    }
    t.losses = arena.template kept<T>(static_cast<Index>(regularizers));
    for_each_regularizer([&](const auto& a, std::size_t i) {
      t.bound_sums[i] = a.sums(s);
      t.sums[i] = arena.template saved<T>(t.bound_sums[i]);
    });
    expert_.bind(b, arena, parameters(), expert_state_, rows, t.expert);
  }

  /// y = MoE(x). x: [T, D], T a multiple of the group; y: [T, O], overwritten; x must live until the backward.
  /// @throws shape_error before anything is written; numeric_error naming the first token whose logits are not
  /// finite (on a host backend; on a device `check(tape)` does)
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass = {}) const {
    detail::check_forward<B>("moxie::MoeLayer", x, y, input_width(), output_width(), t.bound);
    const Routes<B> given = routes_of(pass);
    RoutingShape s = routing_shape(x.rows, pass.mode);
    if (!given.empty()) {
      s.capacity = s.group;  // nothing is dropped but what was recorded so
      s.rows = (std::min)(rows_of(s), t.routing.bound_rows());
    }
    check_pass(s, t, pass, given);
    B& b = backend();
    RoutingType& r = t.routing;
    r.resize(s, wants_noise() && pass.mode == Mode::train);
    t.x = x;
    t.context = {.mode = pass.mode,
                 .gradients = pass.gradients < t.gradients ? pass.gradients : t.gradients,
                 .shape = s,
                 .progress = pass.progress,
                 .seed = pass.seed,
                 .step = pass.step,
                 .layer = pass.moe_layer,
                 .first_token = pass.first_token,
                 .mask = pass.mask,
                 .pairs = pass.pairs};
    t.frozen = !given.empty() && given.weights != Routes<B>::Weights::gate;
    gate_.forward(b, parameters(), gate_state_, x, r.logits);
    first_non_finite(b, ConstVector<B>(r.logits.data, r.logits.size()), r.status, t.check);
    if constexpr (std::same_as<typename B::Space, HostSpace>) check(t);

    if (given.empty()) {
      router_.route(b, t.context, r);
    } else {
      apply(given, t);
    }
    assign_slots(b, t.context, capacity_, s.capacity, t.assign, r);
    t.dispatched = dispatcher_.dispatch(b, r, x, t.dispatch);
    const Matrix<B> rows = t.rows.top(t.dispatched.rows);
    expert_.forward(b, parameters(), expert_state_, t.dispatched, rows, t.expert, pass);
    dispatcher_.combine(b, r, ConstMatrix<B>(rows), y, t.dispatch);
    regularize(t, pass);
  }

  /// dx = gradient of the last forward's x (empty: not computed) for the gradient dy of y, regularizers included;
  /// gradients of parameters += if both the tape and the pass wanted them.
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    const Index tokens = t.context.shape.tokens;
    detail::check_backward<B>("moxie::MoeLayer", dy, dx, tokens, input_width(), output_width());
    const Gradients gradients = t.context.gradients;
    if (gradients == Gradients::none)
      throw_shape("moxie::MoeLayer::backward: this tape or pass was made without gradients");
    B& b = backend();
    RoutingType& r = t.routing;
    RoutingGradients<RoutingType> d = t.d;
    d.logits.rows = d.probs.rows = d.noisy_probs.rows = tokens;
    d.weight.rows = r.weight.rows;
    if (!r.noisy()) d.noisy_probs = d.probs;
    zero(d.logits);
    zero(d.probs);
    if (r.noisy()) zero(d.noisy_probs);

    const Matrix<B> d_rows = t.d_rows.top(t.dispatched.rows);
    const Rows<B> dy_rows =
        dispatcher_.combine_backward(b, r, ConstMatrix<B>(t.rows.top(t.dispatched.rows)), dy, d,
                                     t.dispatch);
    if (t.frozen) zero(d.weight);
    expert_.backward(b, parameters(), expert_state_, t.dispatched, dy_rows, d_rows, t.expert,
                     gradients);
    if (dx) dispatcher_.dispatch_backward(b, r, ConstMatrix<B>(d_rows), dx, t.dispatch);
    if (t.regularized)
      for_each_regularizer([&](const auto& a, std::size_t i) {
        if (a.weight != 0) a.loss_backward(b, t.context, r, ConstVector<B>(sums(t, a, i)), d);
      });
    router_.route_backward(b, t.context, r, d);
    gate_.backward(b, parameters(), gate_state_, t.x, ConstMatrix<B>(d.logits), dx,
                   gradients == Gradients::all);
  }

  /// Names of the regularizers, in the order of `read_losses`.
  static constexpr std::array<std::string_view, regularizers> loss_names() { return {A::name...}; }
  /// Their weighted values in the tape's last forward; zeros if it did not ask for them. Blocks.
  std::array<T, regularizers> read_losses(const Tape& t) const {
    std::array<T, regularizers> host{};
    if (t.context.shape.tokens == 0) return host;  // nothing ran on this tape
    if constexpr (regularizers > 0)
      backend().copy_to_host(host.data(), t.losses.data, sizeof(host));
    check(t);
    return host;
  }
  /// @throws numeric_error naming the first token whose logits were not finite in the last forward. Blocks.
  void check(const Tape& t) const {
    if (t.context.shape.tokens == 0) return;
    const Index bad = read_first_non_finite(backend(), {t.routing.status.data, 1});
    if (bad >= 0)
      throw_numeric("moxie::MoeLayer::forward: the gate's logits of token ",
                    t.context.first_token + bad / shape_.experts, " (expert ", bad % shape_.experts,
                    ", MoE layer ", t.context.layer, ", step ", t.context.step,
                    ") are NaN or infinite");
  }

  void visit_routing(Tape& t, RoutingVisitor<B>& visitor) const {
    visitor.sparse(t.routing);
    const auto names = loss_names();
    visitor.losses(names, t.losses);
  }

  /// Copies the last forward's routes, drops included, into memory of the caller: choice, weight: [T, K].
  void record(const Tape& t, IntMatrix<B> choice, Matrix<B> weight) const {
    const RoutingShape& s = t.context.shape;
    if (choice.rows != s.tokens || choice.cols != s.choices || weight.rows != s.tokens ||
        weight.cols != s.choices)
      throw_shape("moxie::MoeLayer::record: choice is [", choice.rows, " x ", choice.cols,
                  "], weight [", weight.rows, " x ", weight.cols, "], expected [", s.tokens, " x ",
                  s.choices, "]");
    backend().for_each(s.tokens, detail::RecordRow<B>{t.routing, choice, weight});
  }

 private:
  B& backend() const { return scope_.parameters->backend(); }

  bool wants_noise() const {
    if constexpr (requires { router_.noisy(); }) {
      return router_.noisy();
    } else {
      return false;
    }
  }
  Index slots(Index group, Mode mode) const {
    const Index n = capacity_.slots({.tokens = group,
                                     .choices = router_.choices(shape_.experts),
                                     .experts = shape_.experts,
                                     .mode = mode});
    if (n < 1)
      throw_config("moxie::MoeLayer: the capacity is ", n, " slots for a group of ", group,
                   " tokens and ", shape_.experts, " experts, expected >= 1");
    return n;
  }
  Index rows_of(const RoutingShape& s) const {
    const Index most = s.groups() * s.experts * (s.capacity < s.group ? s.capacity : s.group);
    return s.assignments < most ? s.assignments : most;
  }
  void bind_routing(Arena<B>& arena, const RoutingShape& s, Tape& t) const {
    t.routing.bind(arena, s, {.noisy = wants_noise()});
    const Index groups = shape_.group > 0 ? s.groups() : 1;
    std::size_t order_bytes = 0;
    if constexpr (HasPriority<C, B>) order_bytes = capacity_.order_bytes(backend(), s.tokens);
    typename Arena<B>::Scope scope(arena);
    t.check = arena.scratch_bytes(first_non_finite_bytes(s.tokens * s.experts));
    t.assign.bind(arena, backend(), s, groups, order_bytes);
  }
  void bind_dispatch(Arena<B>& arena, const RoutingShape& s, Tape& t) const {
    dispatcher_.bind(backend(), arena, s, shape_.width, output_width(), t.dispatch);
  }
  static Routes<B> routes_of(const Pass<B>& pass) {
    const auto at = static_cast<std::size_t>(pass.moe_layer);
    return at < pass.routes.size() ? pass.routes[at] : Routes<B>{};
  }
  void check_pass(const RoutingShape& s, const Tape& t, const Pass<B>& pass,
                  const Routes<B>& given) const {
    if (pass.mask && pass.mask.size != s.tokens)
      throw_shape("moxie::MoeLayer::forward: pass.mask has ", pass.mask.size,
                  " entries, expected one for each of the ", s.tokens, " tokens");
    if (pass.pairs && pass.pairs.cols != 2)
      throw_shape("moxie::MoeLayer::forward: pass.pairs is [", pass.pairs.rows, " x ",
                  pass.pairs.cols, "], expected [pairs x 2]");
    if (given.empty()) {
      // Only a rule that gives a smaller pass more slots than the one the tape was made for can come here.
      if (s.rows > t.routing.bound_rows() || dispatcher_.rows(s) > t.rows.rows)
        throw_shape("moxie::MoeLayer::forward: ", s.tokens, " tokens with a capacity of ", s.capacity,
                    " may fill ", s.rows, " rows, the tape has room for ", t.routing.bound_rows());
      return;
    }
    if constexpr (!ComposedRouter<R, B>) {
      throw_config("moxie::MoeLayer::forward: pass.routes: this router has no score and weigh, so it "
                   "cannot take choices from outside");
    } else {
      const bool by_rank = given.rank >= 0;
      if (by_rank && given.rank >= s.experts)
        throw_config("moxie::MoeLayer::forward: pass.routes: rank is ", given.rank,
                     ", expected 0 to ", s.experts - 1, " (the experts less one)");
      if (!by_rank && (given.choice.rows != s.tokens || given.choice.cols > s.choices))
        throw_shape("moxie::MoeLayer::forward: pass.routes: choice is [", given.choice.rows, " x ",
                    given.choice.cols, "], expected [", s.tokens, " x at most ", s.choices, "]");
      const Index columns = by_rank ? 1 : given.choice.cols;
      if (given.weights == Routes<B>::Weights::given &&
          (given.weight.rows != s.tokens || given.weight.cols != columns))
        throw_shape("moxie::MoeLayer::forward: pass.routes: weight is [", given.weight.rows, " x ",
                    given.weight.cols, "], expected [", s.tokens, " x ", columns,
                    "], one for each choice");
      const Index most = s.tokens * columns;
      if (most > t.routing.bound_rows() || dispatcher_.rows(s) > t.rows.rows)
        throw_shape("moxie::MoeLayer::forward: pass.routes may fill ", most,
                    " rows, the tape has room for ", t.routing.bound_rows(),
                    ": use a capacity that holds them (Dropless in evaluation, say)");
    }
  }
  /// Scores as ever, choices (and perhaps weights) from outside.
  void apply(const Routes<B>& given, Tape& t) const {
    if constexpr (ComposedRouter<R, B>) {
      B& b = backend();
      RoutingType& r = t.routing;
      router_.score(b, t.context, r);
      if (given.rank >= 0) {
        rank_rows(b, ConstMatrix<B>(r.noisy_logits), t.context.mask, given.rank, r.choice);
      } else {
        b.for_each(r.shape.tokens,
                   detail::CopyGivenRow<B>{given.choice, t.context.mask, r.choice});
      }
      router_.weigh(b, t.context, r);
      using Weights = typename Routes<B>::Weights;
      if (given.weights != Weights::gate)
        b.for_each(r.shape.tokens,
                   detail::CopyGivenWeight<B>{
                       r.choice,
                       given.weights == Weights::given ? given.weight : ConstMatrix<B>{}, r.weight});
    }
  }
  template <class F>
  void for_each_regularizer(const F& f) const {
    std::size_t i = 0;
    std::apply([&](const auto&... a) { (f(a, i++), ...); }, regularizers_);
  }
  template <class Reg>
  Vector<B> sums(const Tape& t, const Reg& a, std::size_t i) const {
    return t.sums[i].middle(0, a.sums(t.context.shape));
  }
  void regularize(Tape& t, const Pass<B>& pass) const {
    t.regularized = pass.regularizers && pass.mode == Mode::train && regularizers > 0;
    if constexpr (regularizers > 0) {
      B& b = backend();
      b.fill(t.losses, T(0));
      if (!t.regularized) return;
      for_each_regularizer([&](const auto& a, std::size_t i) {
        if (a.weight == 0) return;
        const Vector<B> own = sums(t, a, i);
        a.accumulate(b, t.context, t.routing, own);
        a.loss(b, t.context, t.routing, ConstVector<B>(own),
               t.losses.middle(static_cast<Index>(i), 1));
      });
    } else {
      (void)t;
    }
  }
  void zero(Matrix<B> m) const { backend().fill(Vector<B>(m.data, m.size()), T(0)); }

  Scope<B> scope_;
  MoeShape shape_;
  R router_;
  C capacity_;
  X expert_;
  std::tuple<A...> regularizers_;
  GateType gate_{};
  DispatcherType dispatcher_{};
  typename GateType::template State<B> gate_state_{};
  typename X::template State<B> expert_state_{};
};

template <Backend B, class R, class C, class X, class... A>
MoeLayer(B&, MoeShape, R, C, X, A...) -> MoeLayer<B, R, C, X, A...>;
template <Backend B, class R, class C, class X, class... A>
MoeLayer(Scope<B>, MoeShape, R, C, X, A...) -> MoeLayer<B, R, C, X, A...>;

}  // namespace moxie
