#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"

/// What the tests of routers with a transport plan share.
namespace moxie::test {

using Doubles = std::vector<double>;
using Ints = std::vector<std::int32_t>;

template <class R>
RoutingShape shape_of(const R& router, Index tokens, Index group, Index experts, Index capacity) {
  RoutingShape s{.tokens = tokens,
                 .experts = experts,
                 .choices = router.choices(experts),
                 .group = group,
                 .capacity = capacity};
  s.assignments = router.assignments(s);
  return s;
}
template <class T>
Doubles doubles(const std::vector<T>& v) {
  return {v.begin(), v.end()};
}
template <class B>
inline constexpr double near_by = sizeof(typename B::Scalar) == 8 ? 1e-9 : 1e-4;

/// [T, E, C] of what is kept: the weight at [t, e, slot].
template <class B>
Doubles combine_of(B& b, const testing::SparseFixture<B>& f, Index slots) {
  const RoutingShape& s = f.shape();
  Doubles out(static_cast<std::size_t>(s.tokens * s.experts * slots), 0.0);
  const Ints first = testing::detail::to_host(b, f.routing.first);
  const Ints choice = f.choices();
  const Ints slot = f.slots();
  const Ints row = f.rows();
  const Doubles weight = doubles(f.weights());
  for (Index t = 0; t < s.tokens; ++t) {
    const auto at = static_cast<std::size_t>(t);
    const Index begin = f.routing.first ? first[at] : t * s.choices;
    const Index end = f.routing.first ? first[at + 1] : (t + 1) * s.choices;
    for (auto a = static_cast<std::size_t>(begin); a < static_cast<std::size_t>(end); ++a)
      if (row[a] >= 0)
        out[static_cast<std::size_t>((t * s.experts + choice[a]) * slots + slot[a])] = weight[a];
  }
  return out;
}

/// Forward and backward on 1, 2, 3 and 8 threads, to the bit.
template <class T, class R>
void check_threads(const R& router) {
  using B = CpuBackend<T>;
  const auto run = [&](B backend) {
    const RoutingShape s = shape_of(router, 400, 200, 10, 30);
    testing::SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
    f.set_logits(testing::detail::Draw(3).normals(400 * 10));
    router.route(backend, f.context, f.routing);
    testing::detail::from_host(backend, f.gradients.weight,
                               testing::detail::Draw(4).normals(f.routing.weight.size()));
    router.route_backward(backend, f.context, f.routing, f.gradients);
    return std::tuple{f.plan(), f.choices(), f.weights(), f.d_logits()};
  };
  const auto alone = run(B());
  for (const int threads : {2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(run(B(pool)) == alone);
  }
}

/// Why a router is refused for 4 experts; "no error" if it is not.
template <class R>
std::string refusal(const R& router) {
  return message_of<config_error>([&] { router.check(4); });
}

}  // namespace moxie::test
