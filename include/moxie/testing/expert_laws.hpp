#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <string>
#include <utility>
#include <vector>

#include "moxie/expert/concept.hpp"
#include "moxie/testing/law_report.hpp"

namespace moxie::testing {

struct ExpertLawOptions {
  Index cases = 40;
  std::uint64_t seed = 1;
  Index width = 5;                   ///< of a token
  Index experts = 0;                 ///< 0: 1 to 5, drawn for each case
  Index samples = 6;                 ///< central differences a case, each of input and parameters
  double gradient_tolerance = 1e-6;  ///< of them, where the backend's scalar is double
};

namespace detail {

template <Backend B, class X>
class ExpertChecker {
  using T = typename B::Scalar;

 public:
  ExpertChecker(B& b, const X& expert, const ExpertLawOptions& options)
      : backend_(b), expert_(expert), options_(options), draw_(options.seed) {}

  LawReport run() {
    for (Index i = 0; i < options_.cases; ++i) check_case();
    return recorder_.report();
  }

 private:
  struct Case {
    Index rows = 0, sources = 0;       // rows there is memory for; rows of x
    std::vector<std::int32_t> offset;  // [E + 1]
    std::vector<std::int32_t> index;   // [rows], empty: row r of x itself
    std::vector<double> scale;         // [rows], empty: 1
    std::vector<double> x, dy;         // [sources, D], [rows, O]
  };
  struct Outcome {
    std::vector<T> out, dx, gradients;
  };

  Case draw_case() {
    Case c;
    const Index experts = options_.experts > 0 ? options_.experts : draw_.from(1, 5);
    c.offset.push_back(static_cast<std::int32_t>(draw_.chance(0.5) ? 0 : draw_.from(1, 4)));
    for (Index e = 0; e < experts; ++e)
      c.offset.push_back(c.offset.back() +
                         static_cast<std::int32_t>(draw_.chance(0.3) ? 0 : draw_.from(1, 9)));
    c.rows = c.offset.back() + draw_.from(0, 3);
    c.sources = (std::max)(c.rows, Index{1});
    if (draw_.chance(0.6)) {
      c.sources = draw_.from(1, 12);
      for (Index r = 0; r < c.rows; ++r)
        c.index.push_back(static_cast<std::int32_t>(draw_.from(0, c.sources - 1)));
      for (Index r = c.offset.back(); r < c.rows; ++r)
        c.index[static_cast<std::size_t>(r)] = 1 << 30;  // past the end: may not be followed
    }
    if (draw_.chance(0.5)) c.scale = draw_.normals(c.rows);
    c.x = draw_.normals(c.sources * options_.width);
    c.dy = draw_.normals(c.rows * output_width());
    recorder_.begin(experts, " experts, rows ", c.offset.front(), " to ", c.offset.back(), " of ",
                    c.rows, c.index.empty() ? "" : ", gathered", c.scale.empty() ? "" : ", scaled");
    return c;
  }
  Index output_width() const { return expert_.output_width(options_.width); }

  void check_case() {
    const Case c = draw_case();
    const auto experts = static_cast<Index>(c.offset.size()) - 1;
    const Scope<B> scope = root(backend_);
    expert_.declare(scope, ExpertShape{experts, options_.width}, state_);
    Parameters<B>& p = *scope.parameters;
    p.initialize(options_.seed);
    std::vector<T> values = to_host(backend_, p.values());
    // Kernels that start at 0 would hide what lies behind them.
    for (T& v : values) v += static_cast<T>(0.3 * draw_.normal());
    from_host(backend_, p.edit(), values);

    p.zero_gradients();
    const Outcome full = pass(p, c, Gradients::all);
    law_of_untouched_rows(c, full);
    {
      const Outcome more = pass(p, c, Gradients::all);
      recorder_.expect(more.out == full.out && more.dx == full.dx,
                       "the same rows give other results");
      bool twice = true;
      for (std::size_t i = 0; i < full.gradients.size(); ++i)
        twice = twice && near(static_cast<double>(more.gradients[i]),
                              2 * static_cast<double>(full.gradients[i]), 10 * tolerance<T>);
      recorder_.expect(twice, "gradients of parameters do not accumulate");
    }
    {
      from_host(backend_, p.gradients(), std::vector<double>(values.size(), untouched));
      const Outcome inputs = pass(p, c, Gradients::input);
      recorder_.expect(inputs.dx == full.dx, "Gradients::input gives another dx");
      recorder_.expect(inputs.gradients == std::vector<T>(values.size(), static_cast<T>(untouched)),
                       "Gradients::input changes gradients of parameters");
    }
    law_of_own_parameters(p, c, values, full);
    law_of_own_slices(p, c, values, full);
    law_of_permutations(p, c, full);
    if constexpr (std::same_as<T, double>) law_of_gradient(p, c, values, full);
  }

  void law_of_untouched_rows(const Case& c, const Outcome& o) {
    for (Index r = 0; r < c.rows; ++r) {
      if (r >= c.offset.front() && r < c.offset.back()) continue;
      const auto at = [&](const std::vector<T>& v, Index width) {
        return std::all_of(v.begin() + r * width, v.begin() + (r + 1) * width,
                           [](T x) { return x == static_cast<T>(untouched); });
      };
      recorder_.expect(at(o.out, output_width()) && at(o.dx, options_.width),
                       "a row that no expert owns is written");
    }
  }
  void law_of_own_parameters(Parameters<B>& p, const Case& c, const std::vector<T>& values,
                             const Outcome& full) {
    const auto experts = static_cast<Index>(c.offset.size()) - 1;
    const Index changed = draw_.from(0, experts - 1);
    std::vector<T> others = values;
    bool any = false;
    for (const ParameterEntry& e : p.entries()) {
      if (!e.trained || !e.expert_axis || e.shape[0] != experts) continue;
      any = true;
      const Index size = e.size() / experts;
      for (Index i = 0; i < size; ++i)
        others[static_cast<std::size_t>(e.offset + changed * size + i)] += T(1);
    }
    if (!any) return;
    from_host(backend_, p.edit(), others);
    const Outcome moved = pass(p, c, Gradients::input);
    from_host(backend_, p.edit(), values);
    for (Index e = 0; e < experts; ++e)
      recorder_.expect(e == changed || same_rows(c, e, moved, full),
                       "rows of one expert depend on the parameters of another");
  }
  /// Where an entry has slices for some of the experts only, which they are is not known: each
  /// slice moves the rows of one expert at most, and no two of an entry those of the same.
  void law_of_own_slices(Parameters<B>& p, const Case& c, const std::vector<T>& values,
                         const Outcome& full) {
    const auto experts = static_cast<Index>(c.offset.size()) - 1;
    for (const ParameterEntry& entry : p.entries()) {
      if (!entry.trained || !entry.expert_axis || entry.shape[0] == experts) continue;
      std::vector<Index> owners(static_cast<std::size_t>(experts), 0);
      const Index size = entry.size() / entry.shape[0];
      for (Index slice = 0; slice < entry.shape[0]; ++slice) {
        std::vector<T> others = values;
        for (Index i = 0; i < size; ++i)
          others[static_cast<std::size_t>(entry.offset + slice * size + i)] += T(1);
        from_host(backend_, p.edit(), others);
        const Outcome moved = pass(p, c, Gradients::input);
        Index experts_moved = 0;
        for (Index e = 0; e < experts; ++e) {
          if (same_rows(c, e, moved, full)) continue;
          ++experts_moved;
          recorder_.expect(++owners[static_cast<std::size_t>(e)] == 1,
                           "rows of one expert depend on several slices of '" + entry.name + "'");
        }
        recorder_.expect(experts_moved <= 1,
                         "rows of several experts depend on one slice of '" + entry.name + "'");
      }
    }
    from_host(backend_, p.edit(), values);
  }
  bool same_rows(const Case& c, Index expert, const Outcome& a, const Outcome& b) const {
    const auto e = static_cast<std::size_t>(expert);
    for (Index r = c.offset[e]; r < c.offset[e + 1]; ++r)
      if (!same_row(a.out, b.out, r, r, output_width(), 0) ||
          !same_row(a.dx, b.dx, r, r, options_.width, 0))
        return false;
    return true;
  }
  void law_of_permutations(Parameters<B>& p, const Case& c, const Outcome& full) {
    if (c.index.empty()) return;  // there, rows are permuted by permuting x: the same thing
    std::vector<Index> from(static_cast<std::size_t>(c.rows));
    for (Index r = 0; r < c.rows; ++r) from[static_cast<std::size_t>(r)] = r;
    for (std::size_t e = 0; e + 1 < c.offset.size(); ++e) {
      const std::vector<Index> order = draw_.permutation(c.offset[e + 1] - c.offset[e]);
      for (std::size_t i = 0; i < order.size(); ++i)
        from[static_cast<std::size_t>(c.offset[e]) + i] = c.offset[e] + order[i];
    }
    Case permuted = c;
    for (Index r = 0; r < c.rows; ++r) {
      const auto to = static_cast<std::size_t>(r);
      permuted.index[to] = c.index[static_cast<std::size_t>(from[to])];
      if (!c.scale.empty()) permuted.scale[to] = c.scale[static_cast<std::size_t>(from[to])];
      std::copy_n(c.dy.begin() + from[to] * output_width(), output_width(),
                  permuted.dy.begin() + r * output_width());
    }
    const Outcome o = pass(p, permuted, Gradients::input);
    const double by = B::batch_invariant ? 0 : tolerance<T>;
    for (Index r = 0; r < c.rows; ++r)
      recorder_.expect(
          same_row(o.out, full.out, r, from[static_cast<std::size_t>(r)], output_width(), by) &&
              same_row(o.dx, full.dx, r, from[static_cast<std::size_t>(r)], options_.width, by),
          "permuting rows inside an expert does not permute its results");
  }

  /// Of sum(dy * out), with respect to what row r reads (scale * x) and to the parameters.
  void law_of_gradient(Parameters<B>& p, const Case& c, const std::vector<T>& values,
                       const Outcome& full) {
    const auto loss = [&](const Case& at) {
      const std::vector<T> out = pass(p, at, Gradients::none).out;
      double sum = 0;
      for (Index i = c.offset.front() * output_width(); i < c.offset.back() * output_width(); ++i)
        sum += c.dy[static_cast<std::size_t>(i)] * out[static_cast<std::size_t>(i)];
      return sum;
    };
    const auto agree = [&](double analytic, double up, double down) {
      recorder_.expect(near(analytic, (up - down) / 2e-5, options_.gradient_tolerance),
                       "a gradient disagrees with central differences");
    };
    Case plain = c;  // row r reads row r of x, so that each can be moved alone
    plain.index.clear();
    plain.scale.clear();
    plain.sources = (std::max)(c.rows, Index{1});
    plain.x.assign(static_cast<std::size_t>(plain.sources * options_.width), 0.0);
    for (Index r = c.offset.front(); r < c.offset.back(); ++r)
      for (Index d = 0; d < options_.width; ++d) {
        const Index source = c.index.empty() ? r : c.index[static_cast<std::size_t>(r)];
        plain.x[static_cast<std::size_t>(r * options_.width + d)] =
            (c.scale.empty() ? 1 : c.scale[static_cast<std::size_t>(r)]) *
            c.x[static_cast<std::size_t>(source * options_.width + d)];
      }
    for (Index s = 0; s < options_.samples && c.offset.front() < c.offset.back(); ++s) {
      const auto i = static_cast<std::size_t>(
          draw_.from(c.offset.front() * options_.width, c.offset.back() * options_.width - 1));
      Case up = plain;
      Case down = plain;
      up.x[i] += 1e-5;
      down.x[i] -= 1e-5;
      agree(full.dx[i], loss(up), loss(down));
    }
    for (Index s = 0; s < options_.samples && !values.empty(); ++s) {
      const auto i = static_cast<std::size_t>(draw_.from(0, static_cast<Index>(values.size()) - 1));
      std::vector<T> moved = values;
      moved[i] += 1e-5;
      from_host(backend_, p.edit(), moved);
      const double up = loss(c);
      moved[i] -= 2e-5;
      from_host(backend_, p.edit(), moved);
      agree(full.gradients[i], up, loss(c));
    }
    from_host(backend_, p.edit(), values);
  }

  Outcome pass(Parameters<B>& p, const Case& c, Gradients gradients) {
    typename X::template Tape<B> tape;
    Arena<B> measured(gradients);
    expert_.bind(backend_, measured, p, state_, c.rows, tape);
    const Memory<B> memory(backend_, measured.peak());
    Arena<B> arena(gradients, memory.data(), memory.bytes());
    expert_.bind(backend_, arena, p, state_, c.rows, tape);

    const OwnedMatrix<B> x(backend_, c.sources, options_.width, c.x);
    const OwnedMatrix<B> dy(backend_, c.rows, output_width(), c.dy);
    const OwnedMatrix<B> out(backend_, c.rows, output_width(), marks(c.rows * output_width()));
    const OwnedMatrix<B> dx(backend_, c.rows, options_.width, marks(c.rows * options_.width));
    const Buffer<B, std::int32_t> offset(backend_, static_cast<Index>(c.offset.size()));
    const Buffer<B, std::int32_t> index(backend_, static_cast<Index>(c.index.size()));
    const Buffer<B, T> scale(backend_, static_cast<Index>(c.scale.size()));
    from_host(backend_, offset.view(), c.offset);
    from_host(backend_, index.view(), c.index);
    from_host(backend_, scale.view(), c.scale);
    const Rows<B> in{x.read(), index.view(), scale.view(), offset.view(), c.rows};
    const Rows<B> d{dy.read(), {}, {}, offset.view(), c.rows};
    expert_.forward(backend_, p, state_, in, out.view(), tape, Pass<B>{.gradients = gradients});
    if (gradients != Gradients::none)
      expert_.backward(backend_, p, state_, in, d, dx.view(), tape, gradients);
    return {out.get(), dx.get(), to_host(backend_, p.gradients())};
  }
  static std::vector<double> marks(Index n) {
    return std::vector<double>(static_cast<std::size_t>(n), untouched);
  }
  static bool same_row(const std::vector<T>& a, const std::vector<T>& b, Index r, Index s,
                       Index width, double by) {
    for (Index c = 0; c < width; ++c)
      if (!near(static_cast<double>(a[static_cast<std::size_t>(r * width + c)]),
                static_cast<double>(b[static_cast<std::size_t>(s * width + c)]), by))
        return false;
    return true;
  }

  B& backend_;
  const X& expert_;
  ExpertLawOptions options_;
  Draw draw_;
  typename X::template State<B> state_{};
  LawRecorder recorder_;
};
}  // namespace detail

/// Checks the laws of expert/concept.hpp on random groups of rows: gathered, scaled, some experts
/// empty, the first offset above 0, memory for more rows than there are. Gradients against central
/// differences on a backend of double. Blocks.
template <Backend B, class X>
requires Expert<X, B> LawReport check_expert_laws(B& backend, const X& expert,
                                                  const ExpertLawOptions& options = {}) {
  return detail::ExpertChecker<B, X>(backend, expert, options).run();
}

}  // namespace moxie::testing
