// SoftDispatcher against the sums of its definition.
#include "moxie/dispatch/soft.hpp"

#include "router/soft_fixture.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"

using namespace moxie;
using namespace moxie::test;
using testing::detail::Draw;

namespace {}  // namespace

TEST_CASE_TEMPLATE("SoftDispatcher gives the sums of the definition and their adjoints", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  using testing::detail::OwnedMatrix;
  B backend = make_backend<B>();
  Draw draw(11);
  constexpr double by = 20 * testing::tolerance<T>;
  for (int number = 0; number < 60; ++number) {
    const Index S = draw.from(1, 7);
    const Index G = draw.from(1, 4);
    const Index E = draw.from(1, 5);
    const Index P = draw.from(1, 3);
    const Index D = draw.from(1, 20);
    const Index O = draw.from(1, 20);
    CAPTURE(number);
    SoftFixture<B> f(backend, {.tokens = G * S, .experts = E, .group = S, .capacity = P});
    const RoutingShape& s = f.routing.shape;
    const Index C = E * P;
    const std::vector<double> dispatch = draw.normals(G * S * C);  // any numbers will do
    const std::vector<double> combine = draw.normals(G * S * C);
    f.set(f.routing.dispatch, dispatch);
    f.set(f.routing.combine, combine);
    const std::vector<double> xs = draw.normals(G * S * D);
    const std::vector<double> out = draw.normals(G * C * O);  // of the experts, in their rows
    const std::vector<double> dys = draw.normals(G * S * O);
    const std::vector<double> d_in = draw.normals(G * C * D);  // of the experts' inputs
    const OwnedMatrix<B> x(backend, G * S, D, xs);
    const OwnedMatrix<B> rows(backend, G * C, O, out);
    const OwnedMatrix<B> dy(backend, G * S, O, dys);
    const OwnedMatrix<B> d_rows(backend, G * C, D, d_in);
    const OwnedMatrix<B> y(backend, G * S, O);
    const OwnedMatrix<B> dx(backend, G * S, D);

    const SoftDispatcher dispatcher;
    REQUIRE(dispatcher.rows(s) == G * C);
    typename SoftDispatcher::Tape<B> tape;
    Arena<B> measured(Gradients::all);
    dispatcher.bind(backend, measured, s, D, O, tape);
    const Memory<B> memory(backend, measured.peak());
    Arena<B> arena(Gradients::all, memory.data(), memory.bytes());
    dispatcher.bind(backend, arena, s, D, O, tape);

    const auto host = [&](auto view) { return testing::detail::to_host(backend, view); };
    // Row e*G*P + g*P + p of the experts is slot (g, e, p).
    const auto row = [&](Index g, Index e, Index p) { return (e * G + g) * P + p; };
    // What the experts read: rows by index.
    const auto read = [&](const Rows<B>& r, Index cols) {
      const auto offset = host(r.offset);
      REQUIRE(offset.size() == to_size(E + 1));
      for (Index e = 0; e <= E; ++e) REQUIRE(offset[to_size(e)] == e * G * P);
      const auto index = host(r.index);
      const auto all = host(r.x);
      CHECK(r.rows == G * C);
      CHECK_FALSE(r.scale);
      std::vector<double> values;
      for (Index i = 0; i < r.rows; ++i)
        for (Index c = 0; c < cols; ++c)
          values.push_back(static_cast<double>(all[to_size(index[to_size(i)] * cols + c)]));
      return values;
    };

    const std::vector<double> in = read(dispatcher.dispatch(backend, f.routing, x.read(), tape), D);
    dispatcher.combine(backend, f.routing, rows.read(), y.view(), tape);
    const std::vector<double> dy_rows = read(
        dispatcher.combine_backward(backend, f.routing, rows.read(), dy.read(), f.gradients, tape),
        O);
    dispatcher.dispatch_backward(backend, f.routing, d_rows.read(), dx.view(), f.gradients, tape);
    const auto ys = y.get();
    const auto dxs = dx.get();
    const auto d_dispatch = f.get(f.gradients.dispatch);
    const auto d_combine = f.get(f.gradients.combine);
    bool good = true;
    const auto same = [&](T got, double wanted) {
      good = good && testing::near(static_cast<double>(got), wanted, by);
    };
    for (Index g = 0; g < G; ++g)
      for (Index e = 0; e < E; ++e)
        for (Index p = 0; p < P; ++p) {
          const Index c = e * P + p;
          for (Index d = 0; d < D; ++d) {
            double sum = 0;
            for (Index t = g * S; t < (g + 1) * S; ++t)
              sum += dispatch[to_size(t * C + c)] * xs[to_size(t * D + d)];
            same(static_cast<T>(in[to_size(row(g, e, p) * D + d)]), sum);
          }
          for (Index o = 0; o < O; ++o) {
            double sum = 0;
            for (Index t = g * S; t < (g + 1) * S; ++t)
              sum += combine[to_size(t * C + c)] * dys[to_size(t * O + o)];
            same(static_cast<T>(dy_rows[to_size(row(g, e, p) * O + o)]), sum);
          }
          for (Index t = g * S; t < (g + 1) * S; ++t) {
            double to_combine = 0;
            double to_dispatch = 0;
            for (Index o = 0; o < O; ++o)
              to_combine += dys[to_size(t * O + o)] * out[to_size(row(g, e, p) * O + o)];
            for (Index d = 0; d < D; ++d)
              to_dispatch += xs[to_size(t * D + d)] * d_in[to_size(row(g, e, p) * D + d)];
            same(d_combine[to_size(t * C + c)], to_combine);
            same(d_dispatch[to_size(t * C + c)], to_dispatch);
          }
        }
    for (Index t = 0; t < G * S; ++t) {
      const Index g = t / S;
      for (Index o = 0; o < O; ++o) {
        double sum = 0;
        for (Index e = 0; e < E; ++e)
          for (Index p = 0; p < P; ++p)
            sum += combine[to_size(t * C + e * P + p)] * out[to_size(row(g, e, p) * O + o)];
        same(ys[to_size(t * O + o)], sum);
      }
      for (Index d = 0; d < D; ++d) {
        double sum = 0;
        for (Index e = 0; e < E; ++e)
          for (Index p = 0; p < P; ++p)
            sum += dispatch[to_size(t * C + e * P + p)] * d_in[to_size(row(g, e, p) * D + d)];
        same(dxs[to_size(t * D + d)], sum);
      }
    }
    CHECK(good);
  }
}
