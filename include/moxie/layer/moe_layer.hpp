#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <vector>

#include "moxie/capacity/identity_overflow.hpp"
#include "moxie/expert/concept.hpp"
#include "moxie/layer/checks.hpp"
#include "moxie/layer/given_routes.hpp"
#include "moxie/layer/pass_state.hpp"
#include "moxie/layer/tape.hpp"
#include "moxie/ops/add_rows.hpp"
#include "moxie/ops/first_non_finite.hpp"
#include "moxie/regularizer/concept.hpp"
#include "moxie/router/bias.hpp"
#include "moxie/routing/record.hpp"

namespace moxie {

/// A mixture-of-experts layer: gate, router, capacity, dispatch, experts, combine, and losses on its routing.
///
/// Its first argument is where it lives: a backend (the layer owns its parameters, initialized from `shape.seed`) or a
/// Scope of a larger model. A token that no expert took leaves its row of y zero: residual connections belong to
/// the caller. Regularizers run in training passes that ask for them; their gradients are added in backward, and
/// `read_losses` gives their values.
///
/// The number of slots of a soft router is a matter of construction: the capacity's for `shape.group` tokens, or a
/// FixedCapacity's. Where experts choose (or slots are soft), a group that spans several images makes the result of one
/// depend on the others: give `shape.group` the tokens of one image.
///
/// Copies share the parameters.
///
/// Thread safety: forward and backward are const; one tape belongs to one pass at a time.
template <Backend B, class R, Capacity C, class X, class... A>
class MoeLayer {
  static_assert(Router<R, B>,
                "moxie::MoeLayer: the router must model moxie::Router (router/concept.hpp)");
  static_assert(Expert<X, B>,
                "moxie::MoeLayer: the expert must model moxie::Expert (expert/concept.hpp)");
  static_assert(
      (Regularizer<A, B, RoutingOf<R, B>> && ...),
      "moxie::MoeLayer: a regularizer must model moxie::Regularizer for this kind of routing "
      "(regularizer/concept.hpp)");
  using T = typename B::Scalar;
  using RoutingType = RoutingOf<R, B>;
  using DispatcherType = typename detail::DispatcherOf<R, RoutingType>::type;
  using GateType = typename detail::GateOf<R>::type;
  static_assert(
      Dispatcher<DispatcherType, B, RoutingType>,
      "moxie::MoeLayer: the dispatcher must model moxie::Dispatcher for the router's kind of "
      "routing (dispatch/concept.hpp)");
  static_assert(Gate<GateType, B>,
                "moxie::MoeLayer: the gate must model moxie::Gate (gate/concept.hpp)");

 public:
  using BackendType = B;
  static constexpr std::size_t regularizers = sizeof...(A);
  /// Slots are weighted means of all tokens; nothing is chosen.
  static constexpr bool soft = std::same_as<RoutingType, SoftRouting<B>>;

  /// Memory and notes of one pass.
  struct Tape {
    detail::PassState<B> state;
    RoutingType routing;
    RoutingGradients<RoutingType> d;
    AssignMemory<B> assign;
    typename GateType::template Tape<B> gate;
    typename DispatcherType::template Tape<B> dispatch;
    typename X::template Tape<B> expert;
    Matrix<B> rows, d_rows;
    Scratch<B> check, count;
    Vector<B> selected;  // [E] choices that the router made; empty without loss-free balancing
    std::array<Vector<B>, regularizers> sums;
    std::array<Index, regularizers> bound_sums{};
    Vector<B> losses;
    // of the last forward
    Context<B> context;
    RouterAnchor<B> anchor;
    typename RouterAnchors<B>::Gradient anchor_gradient = nullptr;
    Rows<B> dispatched;
    bool given = false;   // choices came from outside ...
    bool frozen = false;  // ... and weights
    bool regularized = false;
    bool ready = false;  // the last forward ended: there is a routing
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
    detail::check_moe_shape(shape);
    if constexpr (requires { router.check(shape.experts); }) router.check(shape.experts);
    if (soft || ragged()) detail::check_filled_slots<B>(capacity);
    // The rule is asked here, so that one that makes no sense fails now and not in the first pass. Without a fixed
    // group it is asked for a large one: whether a small one has slots is known when it comes.
    for (const Mode mode : {Mode::train, Mode::eval})
      (void)slots(shape.group > 0 ? shape.group : shape.experts << 20, mode);
    if constexpr (soft) {
      slots_ = soft_slots();
    }
    detail::check_overflow<B>(router, capacity, shape.width, output_width());
    for_each_regularizer([](const auto& a, std::size_t) {
      if (!math::is_finite(static_cast<double>(a.weight)))
        throw_config("moxie::MoeLayer: the weight of the regularizer '", a.name, "' is ", a.weight,
                     ", expected a finite number");
    });
    gate_.declare(scope_, gate_shape(), gate_state_);
    if constexpr (requires { router.bias_rate(); })
      bias_.declare(scope_, shape.experts, router.bias_rate());
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
    s.capacity = soft ? slots_ : tokens > 0 ? slots(group, mode) : 0;
    s.assignments = router_.assignments(s);
    s.rows = rows_of(s);
    if (!soft) detail::check_numbered(s, dispatcher_.rows(s));
    return s;
  }

  OwnedTape<MoeLayer> make_tape(Index tokens, Gradients gradients = Gradients::all) const {
    return {*this, tokens, gradients};
  }

  void bind(Arena<B>& arena, Index tokens, Tape& t) const {
    typename Arena<B>::Scope scope(arena);
    // A tape may be made for more tokens than whole groups.
    t.state.bind(arena, shape_.group > 0 ? tokens / shape_.group * shape_.group : tokens);
    t.ready = false;
    RoutingShape s = routing_shape(t.state.bound, Mode::train);
    // By capacity, not by rows: a dispatcher that pads to the capacity may need more for as many rows.
    if (const RoutingShape eval = routing_shape(t.state.bound, Mode::eval);
        eval.capacity > s.capacity)
      s = eval;
    B& b = backend();
    bind_routing(arena, s, t);
    dispatcher_.bind(b, arena, s, shape_.width, output_width(), t.dispatch);
    const Index rows = dispatcher_.rows(s);
    t.rows = arena.template saved<T>(rows, output_width());
    if (arena.wants_input()) {
      t.d_rows = arena.template scratch<T>(rows, shape_.width);
      t.d.bind(arena, t.routing, routing_traits(router_, b, s));
    }
    t.losses = arena.template kept<T>(static_cast<Index>(regularizers));
    for_each_regularizer([&](const auto& a, std::size_t i) {
      t.bound_sums[i] = a.sums(s);
      t.sums[i] = arena.template kept<T>(t.bound_sums[i]);  // AnyRegularizers::values reads them
    });
    expert_.bind(b, arena, parameters(), expert_state_, rows, t.expert);
  }

  /// y = MoE(x). x: [T, D], T a multiple of the group; y: [T, O], overwritten; x must live until the backward.
  /// @throws shape_error before anything is written; numeric_error naming the first token whose logits are not
  /// finite (on a host backend; on a device `check(tape)` does)
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass = {}) const {
    RoutingShape s = routing_shape(x.rows, pass.mode);
    detail::PassState<B> state = t.state;  // the tape's stays as it was unless the pass fits
    state.begin_forward_of_parts("moxie::MoeLayer", x, y, input_width(), output_width(), pass);
    const Routes<B> given = at_layer(pass, pass.routes);
    check_pass(t, pass, given, s);
    t.state = state;
    t.ready = false;
    B& b = backend();
    RoutingType& r = t.routing;
    r.resize(s, wants_noise() && pass.mode == Mode::train);
    r.mask = pass.mask;
    if constexpr (!soft) r.bias = bias_.bias(parameters());
    t.context = {.mode = pass.mode,
                 .gradients = state.when_done,
                 .shape = s,
                 .progress = pass.progress,
                 .seed = pass.seed,
                 .step = pass.step,
                 .layer = pass.moe_layer,
                 .first_token = pass.first_token,
                 .mask = pass.mask,
                 .pairs = pass.pairs};
    t.given = !given.empty();
    t.frozen = t.given && given.weights != Routes<B>::Weights::gate;
    t.anchor = at_layer(pass, pass.anchors);
    t.anchor_gradient = pass.anchors.gradient();
    gate_.forward(b, t.context, parameters(), gate_state_, x, r.logits, t.gate);
    first_non_finite(b, ConstVector<B>(r.logits.data, r.logits.size()), r.status, t.check);
    if constexpr (std::same_as<typename B::Space, HostSpace>) check(t);

    route(given, t);
    t.dispatched = dispatcher_.dispatch(b, r, x, t.dispatch);
    const Matrix<B> rows = t.rows.top(t.dispatched.rows);
    expert_.forward(b, parameters(), expert_state_, t.dispatched, rows, t.expert, pass);
    dispatcher_.combine(b, r, ConstMatrix<B>(rows), y, t.dispatch);
    if constexpr (!soft)
      if (returns_dropped(capacity_)) return_dropped(b, r, x, y);
    regularize(t, pass);
    t.state.end_forward();
    t.ready = true;
  }

  /// dx = gradient of the last forward's x (empty: not computed) for the gradient dy of y, regularizers included;
  /// gradients of parameters += if both the tape and the pass wanted them. Once a forward.
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    const Gradients gradients =
        t.state.begin_backward_of_parts("moxie::MoeLayer", dy, dx, input_width(), output_width());
    B& b = backend();
    RoutingType& r = t.routing;
    RoutingGradients<RoutingType> d = t.d.begin(b, r);
    if (t.anchor.logits)  // overwrites d.logits: before all that adds to it
      t.anchor_gradient(b, t.anchor, ConstMatrix<B>(r.logits), d.logits);

    const Matrix<B> d_rows = t.d_rows.top(t.dispatched.rows);
    const Rows<B> dy_rows = dispatcher_.combine_backward(
        b, r, ConstMatrix<B>(t.rows.top(t.dispatched.rows)), dy, d, t.dispatch);
    if constexpr (!soft)
      if (t.frozen) b.fill(Vector<B>(d.weight.data, d.weight.size()), T(0));
    expert_.backward(b, parameters(), expert_state_, t.dispatched, dy_rows, d_rows, t.expert,
                     gradients);
    dispatcher_.dispatch_backward(b, r, ConstMatrix<B>(d_rows), dx, d, t.dispatch);
    if constexpr (!soft)
      if (returns_dropped(capacity_))
        return_dropped_backward(b, r, t.state.x, dy, dx, t.frozen ? Matrix<B>{} : d.weight);
    if (t.regularized)
      for_each_regularizer([&](const auto& a, std::size_t i) {
        if (a.weight != 0) a.loss_backward(b, t.context, r, ConstVector<B>(sums(t, a, i)), d);
      });
    router_.route_backward(b, t.context, r, d);
    gate_.backward(b, t.context, parameters(), gate_state_, t.state.x, ConstMatrix<B>(d.logits), dx,
                   gradients == Gradients::all, t.gate);
    if (counts_selections(t)) {
      const Vector<B> all = bias_.selections(parameters());
      const Matrix<B> row(all.data, 1, all.size);
      add_rows(b, ConstMatrix<B>(row), ConstMatrix<B>(t.selected.data, 1, all.size), row);
    }
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
                    t.context.first_token + bad / gate_shape().columns(), " (expert ",
                    bad % gate_shape().columns() / slots_, ", MoE layer ", t.context.layer,
                    ", step ", t.context.step, ") are NaN or infinite");
  }

  /// @throws shape_error if the tape's last forward did not end, or there was none: it holds no routing then
  void visit_routing(Tape& t, RoutingVisitor<B>& visitor) const {
    if (!t.ready)
      throw_shape(
          "moxie::MoeLayer::visit_routing: there was no forward on this tape, or its last one "
          "ended with an error");
    if constexpr (soft) {
      visitor.soft(t.routing);
    } else {
      visitor.sparse(t.routing);
    }
    const auto names = loss_names();
    visitor.losses(names, t.losses);
    if (!t.regularized) return;
    for_each_regularizer([&](const auto& a, std::size_t i) {
      if constexpr (requires { a.values(ConstVector<B>(t.losses)); })
        visitor.loss_parts(a.names(), a.values(ConstVector<B>(sums(t, a, i))));
    });
  }

  /// Copies the last forward's routes into memory of the caller, entries as those of Routes: choice, weight: [T, K].
  /// Replayed in the same mode and with the same noise, they repeat the pass.
  /// @throws config_error where experts choose: a token then has no K choices
  void record(const Tape& t, IntMatrix<B> choice, Matrix<B> weight) const requires(!soft) {
    if (t.routing.first)
      throw_config(
          "moxie::MoeLayer::record: with this router experts choose, tokens have no list of K "
          "choices that could be recorded");
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
  /// Slots of an expert of a soft router: the same in every pass.
  Index soft_slots() const {
    Index known[2]{};
    for (const Mode mode : {Mode::train, Mode::eval}) {
      const Index here = slots(shape_.group > 0 ? shape_.group : shape_.experts, mode);
      if (shape_.group == 0 && here != slots(2 * shape_.experts, mode))
        throw_config(
            "moxie::MoeLayer: the slots of a soft router depend on shape.group, which is 0: "
            "give it the tokens of one image, or a FixedCapacity");
      known[mode == Mode::train ? 0 : 1] = here;
    }
    if (known[0] != known[1])
      throw_config("moxie::MoeLayer: a soft router has ", known[0],
                   " slots an expert in training and ", known[1],
                   " in evaluation, expected the same: they are parameters");
    return known[0];
  }
  GateShape gate_shape() const { return {shape_.width, shape_.experts, slots_}; }
  bool ragged() const { return detail::is_ragged(router_); }
  bool counts_selections(const Tape& t) const {
    return bias_.active() && !t.given && t.context.gradients == Gradients::all &&
           t.context.mode == Mode::train;
  }
  Index rows_of(const RoutingShape& s) const {
    const Index most =
        s.groups() * s.experts * (soft || s.capacity < s.group ? s.capacity : s.group);
    return soft || s.assignments > most ? most : s.assignments;
  }
  void bind_routing(Arena<B>& arena, const RoutingShape& s, Tape& t) const {
    B& b = backend();
    t.routing.bind(arena, s, routing_traits(router_, b, s));
    gate_.bind(b, arena, gate_shape(), s.tokens, t.gate);
    if (bias_.active()) t.selected = arena.template kept<T>(s.experts);
    typename Arena<B>::Scope scope(arena);
    t.count = arena.scratch_bytes(bias_.scratch_bytes(b, s));
    t.check = arena.scratch_bytes(first_non_finite_bytes(s.tokens * gate_shape().columns()));
    if constexpr (!soft) {
      if (ragged()) return;
      std::size_t order_bytes = 0;
      if constexpr (HasPriority<C, B>) order_bytes = capacity_.order_bytes(b, s.tokens);
      t.assign.bind(arena, b, s, shape_.group > 0 ? s.groups() : 1, order_bytes);
    }
  }
  /// This layer's of what the pass has for each, or an empty one.
  template <class P>
  static P at_layer(const Pass<B>& pass, std::span<const P> each) {
    const auto at = static_cast<std::size_t>(pass.moe_layer);
    return at < each.size() ? each[at] : P{};
  }
  /// Checks that a pass of shape `s` fits; with routes from outside the shape becomes theirs.
  void check_pass(const Tape& t, const Pass<B>& pass, const Routes<B>& given,
                  RoutingShape& s) const {
    if (pass.mask && pass.mask.size != s.tokens)
      throw_shape("moxie::MoeLayer::forward: pass.mask has ", pass.mask.size,
                  " entries, expected one for each of the ", s.tokens, " tokens");
    if (pass.pairs && pass.pairs.cols != 2)
      throw_shape("moxie::MoeLayer::forward: pass.pairs is [", pass.pairs.rows, " x ",
                  pass.pairs.cols, "], expected [pairs x 2]");
    detail::check_anchor(at_layer(pass, pass.anchors), pass, s, soft);
    if (given.empty()) {
      // Only a rule that gives a smaller pass more slots than the one the tape was made for can come here.
      if (s.rows > t.routing.bound_rows() || dispatcher_.rows(s) > t.rows.rows)
        throw_shape("moxie::MoeLayer::forward: ", s.tokens, " tokens with a capacity of ",
                    s.capacity, " may fill ", s.rows, " rows, the tape has room for ",
                    t.routing.bound_rows());
      return;
    }
    if (ragged())
      throw_config(
          "moxie::MoeLayer::forward: pass.routes: with this router experts choose tokens, so "
          "it cannot take choices of tokens from outside");
    if (soft || !detail::is_composed<B>(router_))
      throw_config(
          "moxie::MoeLayer::forward: pass.routes: this router has no score and weigh, so it "
          "cannot take choices from outside");
    if (given.rank >= 0 && !detail::has_ranks<B>(router_))
      throw_config("moxie::MoeLayer::forward: pass.routes: rank is ", given.rank,
                   ", expected choices: this router selects by no scores, or shows none (a member "
                   "`ranked`, router/concept.hpp), so its experts have no ranks");
    s.capacity = s.group;  // nothing is dropped but what was recorded so
    s.rows = detail::rows_of_given(given, s, t.routing.bound_rows());
    if (dispatcher_.rows(s) > t.rows.rows)
      throw_shape("moxie::MoeLayer::forward: pass.routes may fill ", dispatcher_.rows(s),
                  " padded rows, the tape has room for ", t.rows.rows);
  }
  /// Scores, choices, slots: all of the routing tensors.
  void route(const Routes<B>& given, Tape& t) const {
    B& b = backend();
    RoutingType& r = t.routing;
    if (given.empty()) {
      router_.route(b, t.context, r);
      if constexpr (!soft) {
        if (ragged()) return;
        if (counts_selections(t)) {
          b.fill(t.selected, T(0));
          bias_.count(b, r, t.selected, t.count);
        }
        if (assign_slots(b, t.context, capacity_, r.shape.capacity, t.assign, r)) weigh(r, t);
      }
    } else if constexpr (!soft && ComposedRouter<R, B>) {
      detail::apply_given(b, t.context, router_, given, r);
      detail::assign_given(b, t.context, capacity_, given, t.assign, r);
    }
  }
  /// The weights of choices that the overflow policy changed.
  void weigh(RoutingType& r, Tape& t) const {
    if constexpr (ComposedRouter<R, B>) router_.weigh(backend(), t.context, r);
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

  Scope<B> scope_;
  MoeShape shape_;
  R router_;
  C capacity_;
  X expert_;
  std::tuple<A...> regularizers_;
  Index slots_ = 1;  // P
  BiasState<B> bias_{};
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
