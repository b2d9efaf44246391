#pragma once

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/expert/concept.hpp"

namespace moxie {

/// Experts of several kinds in one layer: the first counts[0] experts are of the first kind, the
/// next counts[1] of the second, and so on. `Mixed{{6, 2}, FeedForward<Gelu>{.hidden = 64},
/// SwiGLU{.hidden = 256}}` is 8 experts.
///
/// Parameters: those of kind k under "<k>/", with an expert axis of counts[k]. Each kind sees its
/// run of experts, that part of `offset`, and the whole of the rows, which stay where they are: on
/// a device only kernels know where a run begins. So each kind's tape has room for all rows, and
/// scratch is shared, since the kinds run one after another.
template <class... X>
struct Mixed {
  static_assert(sizeof...(X) > 0, "moxie::Mixed: expected at least one kind of expert");

  std::vector<Index> counts;  ///< experts of each kind; their sum is E
  std::tuple<X...> kinds;

  Mixed(std::vector<Index> experts_of_each, X... kind)
      : counts(std::move(experts_of_each)), kinds(std::move(kind)...) {}

  template <Backend B>
  struct State {
    std::tuple<typename X::template State<B>...> kinds;
  };
  template <Backend B>
  struct Tape {
    std::tuple<typename X::template Tape<B>...> kinds;
  };

  Index output_width(Index width) const { return std::get<0>(kinds).output_width(width); }

  /// @throws config_error unless there is a count >= 1 for each kind, they sum to E, and all kinds
  /// give rows of one width
  template <Backend B>
  void declare(const Scope<B>& scope, const ExpertShape& s, State<B>& state) const {
    static_assert((Expert<X, B> && ...),
                  "moxie::Mixed: each kind must model moxie::Expert (expert/concept.hpp)");
    check(s);
    each([&](auto k, Index) {
      std::get<k>(kinds).declare(scope / std::to_string(k.value), {counts[k], s.width},
                                 std::get<k>(state.kinds));
    });
  }
  template <Backend B>
  void bind(B& b, Arena<B>& arena, const Parameters<B>& p, const State<B>& state, Index rows,
            Tape<B>& tape) const {
    each([&](auto k, Index) {
      const typename Arena<B>::Scope one_after_another(arena);
      std::get<k>(kinds).bind(b, arena, p, std::get<k>(state.kinds), rows, std::get<k>(tape.kinds));
    });
  }
  template <Backend B>
  void forward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
               Matrix<B> out, Tape<B>& tape, const Pass<B>& pass) const {
    each([&](auto k, Index first) {
      std::get<k>(kinds).forward(b, p, std::get<k>(state.kinds), run(in, first, counts[k]), out,
                                 std::get<k>(tape.kinds), pass);
    });
  }
  template <Backend B>
  void backward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
                const Rows<B>& dy, Matrix<B> dx, Tape<B>& tape, Gradients gradients) const {
    // In reverse: the scratch of a kind may lie where the next one's saved memory lies.
    Index last = in.experts();
    [&]<std::size_t... i>(std::index_sequence<i...>) {
      (run_backward<sizeof...(X) - 1 - i>(b, p, state, in, dy, dx, tape, gradients, last), ...);
    }
    (std::index_sequence_for<X...>{});
  }

  friend bool operator==(const Mixed&, const Mixed&) = default;

 private:
  /// f(number of the kind as a constant, its first expert)
  template <class F>
  void each(const F& f) const {
    Index first = 0;
    [&]<std::size_t... k>(std::index_sequence<k...>) {
      ((f(std::integral_constant<std::size_t, k>{}, first), first += counts[k]), ...);
    }
    (std::index_sequence_for<X...>{});
  }
  template <std::size_t k, Backend B>
  void run_backward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
                    const Rows<B>& dy, Matrix<B> dx, Tape<B>& tape, Gradients gradients,
                    Index& last) const {
    const Index first = last - counts[k];
    std::get<k>(kinds).backward(b, p, std::get<k>(state.kinds), run(in, first, counts[k]),
                                run(dy, first, counts[k]), dx, std::get<k>(tape.kinds), gradients);
    last = first;
  }
  template <class B>
  static Rows<B> run(Rows<B> rows, Index first, Index count) {
    rows.offset = rows.offset.middle(first, count + 1);
    return rows;
  }
  void check(const ExpertShape& s) const {
    if (counts.size() != sizeof...(X))
      throw_config("moxie::Mixed: counts has ", counts.size(), " entries, expected ", sizeof...(X),
                   ", one for each kind of expert");
    Index sum = 0;
    for (std::size_t k = 0; k < counts.size(); ++k) {
      if (counts[k] < 1)
        throw_config("moxie::Mixed: counts[", k, "] is ", counts[k], ", expected >= 1");
      sum += counts[k];
    }
    if (sum != s.experts)
      throw_config("moxie::Mixed: counts sum to ", sum, ", expected ", s.experts,
                   ", the experts of the layer");
    const Index width = output_width(s.width);
    each([&](auto k, Index) {
      if (const Index own = std::get<k>(kinds).output_width(s.width); own != width)
        throw_config("moxie::Mixed: kind 0 gives rows of ", width, ", kind ", k.value, " rows of ",
                     own, ", expected the same width of all kinds");
    });
  }
};

template <class... X>
Mixed(std::vector<Index>, X...) -> Mixed<X...>;

}  // namespace moxie
