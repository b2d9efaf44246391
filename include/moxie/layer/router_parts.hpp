#pragma once

#include "moxie/dispatch/gather.hpp"
#include "moxie/dispatch/soft.hpp"
#include "moxie/gate/linear.hpp"
#include "moxie/router/concept.hpp"

/// What a layer asks of its router: the dispatcher and the gate, those it brings along or the usual ones, and what it
/// can do.
namespace moxie {

namespace detail {
template <class R, class Routing>
struct DispatcherOf {
  using type = GatherDispatcher;
};
template <class R, class B>
requires(!requires { typename R::DispatcherType; }) struct DispatcherOf<R, SoftRouting<B>> {
  using type = SoftDispatcher;
};
template <class R, class Routing>
requires requires { typename R::DispatcherType; }
struct DispatcherOf<R, Routing> {
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

/// Experts choose tokens, not tokens experts.
template <class R>
bool is_ragged(const R& router) {
  if constexpr (requires { router.ragged(); }) {
    return router.ragged();
  } else {
    return false;
  }
}
/// The router is made of `score`, `select` and `weigh`. One of a type chosen at run time says so by `bool composed()`.
template <Backend B, class R>
bool is_composed(const R& router) {
  if constexpr (!ComposedRouter<R, B>) {
    return false;
  } else if constexpr (requires { router.composed(); }) {
    return router.composed();
  } else {
    return true;
  }
}
/// The router's experts have ranks. One of a type chosen at run time says so by `bool ranks()`.
template <Backend B, class R>
bool has_ranks(const R& router) {
  if constexpr (!RankingRouter<R, B>) {
    return false;
  } else if constexpr (requires { router.ranks(); }) {
    return router.ranks();
  } else {
    return true;
  }
}

}  // namespace detail

}  // namespace moxie
