#pragma once

#include "moxie/dispatch/gather.hpp"
#include "moxie/dispatch/soft.hpp"
#include "moxie/gate/linear.hpp"

/// The dispatcher and the gate that a layer has for its router: those the router brings along, or the usual ones.
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

}  // namespace detail

}  // namespace moxie
