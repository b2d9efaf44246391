#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "moxie/capacity/dropless.hpp"
#include "moxie/dispatch/einsum.hpp"
#include "moxie/testing/capacity_laws.hpp"

namespace moxie::testing {

namespace detail {

template <Backend B, class D>
class DispatcherChecker {
  using T = typename B::Scalar;

 public:
  DispatcherChecker(B& b, const D& dispatcher, const LawOptions& options)
      : backend_(b), dispatcher_(dispatcher), options_(options), draw_(options.seed) {}

  LawReport run() {
    for (Index i = 0; i < options_.cases; ++i) check_case();
    return recorder_.report();
  }

 private:
  /// Everything one dispatcher does with a routing. An expert doubles, triples, ... its rows.
  struct Outcome {
    double dispatched = 0, dispatched_back = 0;  // <dispatch(x), r>, <x, dispatch_backward(r)>
    double combined = 0, combined_back = 0;  // <combine(rows), dy>, <rows, combine_backward(dy)>
    double by_weight = 0;                    // <weight, d(weight)>, the same number again
    std::vector<T> y, dx, d_weight;
  };

  void check_case() {
    const Index group = draw_.from(1, 6);
    RoutingShape s{.tokens = group * draw_.from(1, 3), .experts = draw_.from(1, 5), .group = group};
    s.choices = draw_.from(1, (std::min)(s.experts, Index{3}));
    s.capacity = draw_.from(1, group + 2);
    const Index width = draw_.from(1, 20);
    recorder_.begin(s.tokens, " tokens in groups of ", group, ", ", s.experts, " experts, ",
                    s.choices, " choices, capacity ", s.capacity, ", width ", width);
    SparseFixture<B> f(backend_, s);
    const std::vector<std::int32_t> mask = draw_mask(draw_, s.tokens);
    f.set_choices(draw_choices(draw_, s.tokens, s.experts, s.choices, mask));
    std::vector<double> weight = draw_.normals(s.tokens * s.choices);
    f.set_weights(weight);
    f.set_mask(mask);
    f.assign(Dropless{});  // "lower token first"; the capacity is the shape's

    const OwnedMatrix<B> x(backend_, s.tokens, width, draw_.normals(s.tokens * width));
    const OwnedMatrix<B> dy(backend_, s.tokens, width, draw_.normals(s.tokens * width));
    const std::uint64_t seed = options_.seed + static_cast<std::uint64_t>(recorder_.report().cases);
    const Outcome own = outcome(dispatcher_, f, x, dy, seed);
    const Outcome oracle = outcome(EinsumDispatcher{}, f, x, dy, seed);
    const double by = 10 * tolerance<T>;
    recorder_.expect(near(own.dispatched, own.dispatched_back, by),
                     "<dispatch(x), r> is not <x, dispatch_backward(r)>");
    recorder_.expect(near(own.combined, own.combined_back, by),
                     "<combine(rows), dy> is not <rows, combine_backward(dy)>");
    recorder_.expect(near(own.combined, own.by_weight, by),
                     "d(weight) is not the derivative of combine");
    recorder_.expect(all_near(own.y, oracle.y, by), "y is not that of the einsum oracle");
    recorder_.expect(all_near(own.dx, oracle.dx, by), "dx is not that of the einsum oracle");
    recorder_.expect(all_near(own.d_weight, oracle.d_weight, by),
                     "d(weight) is not that of the einsum oracle");
  }

  template <class Any>
  Outcome outcome(const Any& dispatcher, SparseFixture<B>& f, const OwnedMatrix<B>& x,
                  const OwnedMatrix<B>& dy, std::uint64_t seed) {
    const RoutingShape& s = f.shape();
    const Index width = x.view().cols;
    typename Any::template Tape<B> tape;
    Arena<B> measured(Gradients::all);
    dispatcher.bind(backend_, measured, s, width, width, tape);
    const Memory<B> memory(backend_, measured.peak());
    Arena<B> arena(Gradients::all, memory.data(), memory.bytes());
    dispatcher.bind(backend_, arena, s, width, width, tape);
    const Index n = dispatcher.rows(s);
    Outcome o;

    const Rows<B> rows = dispatcher.dispatch(backend_, f.routing, x.read(), tape);
    const std::vector<T> sent = values(rows, width);
    const OwnedMatrix<B> r = owned_rows(rows, n, width, Draw(seed).normals(n * width));
    const OwnedMatrix<B> dx(backend_, s.tokens, width);
    dispatcher.dispatch_backward(backend_, f.routing, r.read(), dx.view(), f.gradients, tape);
    o.dispatched = dot(sent, r.get());
    o.dispatched_back = dot(x.get(), dx.get());

    // What an expert gives: its rows times its number, so that mixed-up experts are seen.
    std::vector<double> given(static_cast<std::size_t>(n * width), untouched);
    for_each_row(rows, [&](Index row, Index e) {
      for (Index c = 0; c < width; ++c) {
        const auto i = static_cast<std::size_t>(row * width + c);
        given[i] = static_cast<double>(e + 1) * static_cast<double>(sent[i]);
      }
    });
    const OwnedMatrix<B> out(backend_, n, width, given);
    const OwnedMatrix<B> y(backend_, s.tokens, width);
    dispatcher.combine(backend_, f.routing, out.read(), y.view(), tape);
    const Rows<B> dy_rows =
        dispatcher.combine_backward(backend_, f.routing, out.read(), dy.read(), f.gradients, tape);
    const std::vector<T> back = values(dy_rows, width);
    o.y = y.get();
    o.combined = dot(o.y, dy.get());
    o.combined_back = dot(out.get(), back);
    o.d_weight = to_host(backend_, f.gradients.weight);
    o.by_weight = dot(o.d_weight, f.weights());

    std::vector<double> d_rows(static_cast<std::size_t>(n * width), untouched);
    for_each_row(rows, [&](Index row, Index e) {
      for (Index c = 0; c < width; ++c) {
        const auto i = static_cast<std::size_t>(row * width + c);
        d_rows[i] = static_cast<double>(e + 1) * static_cast<double>(back[i]);
      }
    });
    const OwnedMatrix<B> d(backend_, n, width, d_rows);
    dispatcher.dispatch_backward(backend_, f.routing, d.read(), dx.view(), f.gradients, tape);
    o.dx = dx.get();
    return o;
  }

  template <class F>
  void for_each_row(const Rows<B>& rows, const F& f) {
    const std::vector<std::int32_t> offset = to_host(backend_, rows.offset);
    for (std::size_t e = 0; e + 1 < offset.size(); ++e)
      for (Index r = offset[e]; r < offset[e + 1]; ++r) f(r, static_cast<Index>(e));
  }
  /// Rows spelled out, 0 for those that no expert owns.
  std::vector<T> values(const Rows<B>& rows, Index width) {
    const std::vector<T> x = to_host(backend_, rows.x);
    const std::vector<std::int32_t> index = to_host(backend_, rows.index);
    const std::vector<T> scale = to_host(backend_, rows.scale);
    std::vector<T> out(static_cast<std::size_t>(rows.rows * width), T(0));
    for_each_row(rows, [&](Index r, Index) {
      const Index from = index.empty() ? r : index[static_cast<std::size_t>(r)];
      const T by = scale.empty() ? T(1) : scale[static_cast<std::size_t>(r)];
      for (Index c = 0; c < width; ++c)
        out[static_cast<std::size_t>(r * width + c)] =
            by * x[static_cast<std::size_t>(from * width + c)];
    });
    return out;
  }
  /// `v` in the rows that an expert owns; nothing may look at the others.
  OwnedMatrix<B> owned_rows(const Rows<B>& rows, Index n, Index width,
                            const std::vector<double>& v) {
    std::vector<double> out(v.size(), untouched);
    for_each_row(rows, [&](Index r, Index) {
      std::copy_n(v.begin() + r * width, width, out.begin() + r * width);
    });
    return {backend_, n, width, out};
  }

  B& backend_;
  const D& dispatcher_;
  LawOptions options_;
  Draw draw_;
  LawRecorder recorder_;
};
}  // namespace detail

/// Checks the laws of dispatch/concept.hpp on random routings with groups, drops and padding:
/// dispatch and combine are adjoint to their backwards, and with experts in between give what
/// EinsumDispatcher gives.   Blocks.
template <Backend B, class D>
requires Dispatcher<D, B> LawReport
check_dispatcher_laws(B& backend, const D& dispatcher, const LawOptions& options = {.cases = 300}) {
  return detail::DispatcherChecker<B, D>(backend, dispatcher, options).run();
}

}  // namespace moxie::testing
