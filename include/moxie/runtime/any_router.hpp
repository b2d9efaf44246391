#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "moxie/core/error.hpp"
#include "moxie/layer/router_parts.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/runtime/any_gate.hpp"

namespace moxie {

/// A router of sparse routing whose type is chosen at run time: a few virtual calls a pass, never per token. It models
/// Router, and shares what it holds with its copies (routers are immutable).
template <Backend B>
class AnyRouter {
 public:
  template <class Own>
  using Routing = SparseRouting<Own>;

  template <class R>
  requires(Router<R, B> && !std::same_as<R, AnyRouter> &&
           std::same_as<RoutingOf<R, B>, SparseRouting<B>>)
      AnyRouter(R router)  // NOLINT(google-explicit-constructor): any router is an AnyRouter
      : held_(std::make_shared<const Model<R>>(std::move(router))) {
    static_assert(
        !requires { typename R::DispatcherType; },
        "moxie::AnyRouter: a router that brings its own dispatcher cannot be chosen at run "
        "time: its layer would not use it");
  }

  /// The gate that the router brings along, if it does.
  const std::optional<AnyGate<B>>& own_gate() const { return held_->gate; }

  Index choices(Index experts) const { return held_->choices(experts); }
  Index assignments(const RoutingShape& shape) const { return held_->assignments(shape); }
  void check(Index experts) const { held_->check(experts); }
  bool noisy() const { return held_->traits.noisy; }
  bool ragged() const { return held_->traits.ragged; }
  bool plans() const { return held_->traits.plan; }
  /// Whether the router is made of the three parts of `route`, as a ComposedRouter is.
  bool composed() const { return held_->composed; }
  /// Whether its experts have ranks, as those of a RankingRouter.
  bool ranks() const { return held_->ranks; }
  double bias_rate() const { return held_->bias_rate; }
  std::size_t scratch_bytes(const B& b, const RoutingShape& s) const {
    return held_->scratch_bytes(b, s);
  }
  void route(B& b, const Context<B>& ctx, SparseRouting<B>& r) const { held_->route(b, ctx, r); }
  void route_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r,
                      RoutingGradients<SparseRouting<B>>& g) const {
    held_->route_backward(b, ctx, r, g);
  }
  /// The three parts of `route`.   @throws config_error unless composed()
  void score(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    held_->part(Part::score, b, ctx, r);
  }
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    held_->part(Part::select, b, ctx, r);
  }
  void weigh(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    held_->part(Part::weigh, b, ctx, r);
  }
  /// @throws config_error unless ranks()
  ConstMatrix<B> ranked(B& b, const Context<B>& ctx, const SparseRouting<B>& r) const {
    return held_->ranked(b, ctx, r);
  }

 private:
  enum class Part { score, select, weigh };
  struct Base {
    RoutingTraits traits;
    bool composed = false;
    bool ranks = false;
    double bias_rate = 0;
    std::optional<AnyGate<B>> gate;

    virtual ~Base() = default;
    virtual Index choices(Index) const = 0;
    virtual Index assignments(const RoutingShape&) const = 0;
    virtual void check(Index) const = 0;
    virtual std::size_t scratch_bytes(const B&, const RoutingShape&) const = 0;
    virtual void route(B&, const Context<B>&, SparseRouting<B>&) const = 0;
    virtual void route_backward(B&, const Context<B>&, const SparseRouting<B>&,
                                RoutingGradients<SparseRouting<B>>&) const = 0;
    virtual void part(Part, B&, const Context<B>&, SparseRouting<B>&) const = 0;
    virtual ConstMatrix<B> ranked(B&, const Context<B>&, const SparseRouting<B>&) const = 0;
  };
  template <class R>
  struct Model final : Base {
    explicit Model(R r) : router(std::move(r)) {
      if constexpr (requires { router.noisy(); }) this->traits.noisy = router.noisy();
      if constexpr (requires { router.ragged(); }) this->traits.ragged = router.ragged();
      if constexpr (requires { router.plans(); }) this->traits.plan = router.plans();
      this->composed = detail::is_composed<B>(router);
      this->ranks = detail::has_ranks<B>(router);
      if constexpr (requires { router.bias_rate(); }) this->bias_rate = router.bias_rate();
      if constexpr (requires { router.gate; }) {
        this->gate = router.gate;
      } else if constexpr (requires { typename R::GateType; }) {
        this->gate = typename R::GateType{};
      }
    }
    Index choices(Index experts) const override { return router.choices(experts); }
    Index assignments(const RoutingShape& s) const override { return router.assignments(s); }
    void check(Index experts) const override {
      if constexpr (requires { router.check(experts); }) router.check(experts);
    }
    std::size_t scratch_bytes(const B& b, const RoutingShape& s) const override {
      return routing_traits(router, b, s).scratch_bytes;
    }
    void route(B& b, const Context<B>& ctx, SparseRouting<B>& r) const override {
      router.route(b, ctx, r);
    }
    void route_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r,
                        RoutingGradients<SparseRouting<B>>& g) const override {
      router.route_backward(b, ctx, r, g);
    }
    void part(Part which, B& b, const Context<B>& ctx, SparseRouting<B>& r) const override {
      if constexpr (ComposedRouter<R, B>) {
        switch (which) {
          case Part::score:
            return router.score(b, ctx, r);
          case Part::select:
            return router.select(b, ctx, r);
          case Part::weigh:
            return router.weigh(b, ctx, r);
        }
      } else {
        throw_config("moxie::AnyRouter: this router is not made of score, select and weigh");
      }
    }
    ConstMatrix<B> ranked(B& b, const Context<B>& ctx, const SparseRouting<B>& r) const override {
      if constexpr (RankingRouter<R, B>) {
        return router.ranked(b, ctx, r);
      } else {
        throw_config("moxie::AnyRouter: this router has no scores by which experts have ranks");
      }
    }
    R router;
  };
  std::shared_ptr<const Base> held_;
};

}  // namespace moxie
