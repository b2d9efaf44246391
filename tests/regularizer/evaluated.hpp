#pragma once

#include <doctest/doctest.h>

#include <vector>

#include "moxie/router/top_k.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "support/backends.hpp"

namespace moxie::test {

using testing::SparseFixture;

/// Loss, sums and gradient with respect to the clean logits, of a routing whose tensors are given.
template <class B>
struct Evaluated {
  using T = typename B::Scalar;
  double loss = 0;
  std::vector<T> sums, d_logits;

  template <class A>
  Evaluated(B& backend, const A& a, SparseFixture<B>& f, const TopKRouter& router) {
    Buffer<T, B> s(backend, a.sums(f.shape()), T(99));
    Buffer<T, B> out(backend, 1, T(99));
    a.accumulate(backend, f.context, f.routing, s.view());
    a.loss(backend, f.context, f.routing, ConstVector<B>(s.view()), out.view());
    f.zero_gradients();
    a.loss_backward(backend, f.context, f.routing, ConstVector<B>(s.view()), f.gradients);
    router.route_backward(backend, f.context, f.routing, f.gradients);
    loss = static_cast<double>(out.to_vector()[0]);
    sums = s.to_vector();
    d_logits = f.d_logits();
  }
};

/// Clean logits, given noise of a given deviation, top-k of the sum.
template <class B>
struct Given {
  TopKRouter router;
  SparseFixture<B> f;

  Given(B& backend, const std::vector<double>& logits, const std::vector<double>& noise,
        double std_dev, Index experts, Index k)
      : router{.k = k},
        f(backend,
          {.tokens = static_cast<Index>(logits.size()) / experts, .experts = experts, .choices = k},
          {.noisy = true}) {
    std::vector<double> noisy = logits;
    for (std::size_t i = 0; i < noise.size(); ++i) noisy[i] += noise[i];
    f.set_logits(logits);
    f.set_noisy_logits(noisy);
    router.route(backend, f.context, f.routing);
    f.routing.noise_std = std_dev;
  }
};

template <class T>
void check_near(const std::vector<T>& got, const std::vector<double>& wanted) {
  REQUIRE(got.size() == wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(testing::near(static_cast<double>(got[i]), wanted[i], 1e-8 + testing::tolerance<T>));
  }
}

}  // namespace moxie::test
