#pragma once

#include <concepts>
#include <string>
#include <type_traits>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/expert/concept.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
/// What Networks calls of a Layer, whose concept (layer/concept.hpp) stands above the experts.
template <class L, class B>
concept Network = std::same_as<typename L::BackendType, B> &&
    requires(const L& layer, typename L::Tape& tape, Arena<B>& arena, ConstMatrix<B> x, Matrix<B> y,
             const Pass<B>& pass, Index rows) {
  { layer.input_width() } -> std::same_as<Index>;
  { layer.output_width() } -> std::same_as<Index>;
  { layer.parameters() } -> std::same_as<Parameters<B>&>;
  layer.bind(arena, rows, tape);
  layer.forward(x, y, tape, pass);
  layer.backward(x, y, tape);
};
template <class Make, class B>
struct MadeBy {
  using type = std::remove_cvref_t<std::invoke_result_t<const Make&, const Scope<B>&>>;
  static_assert(Network<type, B>,
                "moxie::Networks: make(scope) must give a moxie::Layer of the layer's own backend "
                "(layer/concept.hpp)");
};

template <Backend B>
struct GatherNetworkRow {
  Rows<B> in;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    if (r < in.offset[0] || r >= in.offset[in.experts()]) return;
    const auto* from = in.x.row(in.source(r));
    const auto scale = in.factor(r);
    row_map(out.cols, out.row(r), [=](Index j) { return scale * from[j]; });
  }
};
}  // namespace detail

/// Experts that are whole networks: E layers built by make(scope / "0"), make(scope / "1"), ...: an
/// Mlp, a Vit per expert of an image-level mixture (as RT-ER's, whose experts are whole
/// classifiers), another MoeLayer, or AnyLayer for several kinds.
///
/// `make` takes a `const Scope<B>&` and gives a Layer that takes any number of rows. It need not
/// give the same sizes each time, but always rows of `output`. Parameters: those of network e under
/// "<e>/"; they have no expert axis.
///
/// Rows are gathered into contiguous memory, [R, D], and so is their gradient. How many rows an
/// expert got is known only in a pass, so `bind` takes one block, of which `forward` carves a tape
/// for each expert that has rows. With n = min(E, R), the block is n bytes(ceil(R / n)) + (n - 1)
/// bytes(1), where bytes(r) is the most that one network needs for r rows: enough for any partition
/// of R rows if bytes is a sum of rounded-up multiples of r, with steps that one row fills, and of
/// parts that are concave in r. So it is for dense layers and, under Dropless or FixedCapacity, for
/// mixtures. A MoeLayer that is itself the network, without a fixed group, whose slots grow in
/// larger steps (a factor below 1, multiple_of above 1) may not fit: forward then throws
/// shape_error, from the arena, before y is written.
///
/// A pass reaches the networks with its mode, gradients, step, progress and regularizers. Mask,
/// pairs and routes speak of the outer tokens and end here; MoE layers inside count from 0, and
/// draw from seeds mixed of (seed, outer layer, first token, expert). Their losses enter the
/// gradients, but are not among those of the outer layer.
///
/// Blocks: the E + 1 offsets are copied to the host once per forward, since the networks are
/// launched from there.
template <class Make>
struct Networks {
  Make make;
  Index output = 0;  ///< O of every network; 0 = the width of a token

  template <Backend B>
  using Network = typename detail::MadeBy<Make, B>::type;
  template <Backend B>
  struct State {
    std::vector<Network<B>> networks;
  };
  template <Backend B>
  struct Tape {
    Arena<B> block{Gradients::none};  // of it the networks' tapes are carved
    std::vector<typename Network<B>::Tape> networks;
    std::vector<std::int32_t> offset;  // [E + 1] of the last forward
    Matrix<B> x;                       // [R, D]
    Matrix<B> dy;                      // [R, O]

    Index rows(std::size_t e) const { return offset[e + 1] - offset[e]; }
  };

  Index output_width(Index width) const noexcept { return output > 0 ? output : width; }

  /// @throws config_error if a network has other widths than a token and `output`, or lives in
  /// another model
  template <Backend B>
  void declare(const Scope<B>& scope, const ExpertShape& s, State<B>& state) const {
    state.networks.clear();
    state.networks.reserve(static_cast<std::size_t>(s.experts));
    detail::check_output("moxie::Networks", output);
    const Index out = output_width(s.width);
    for (Index e = 0; e < s.experts; ++e) {
      state.networks.push_back(make(scope / std::to_string(e)));
      const Network<B>& made = state.networks.back();
      if (made.input_width() != s.width || made.output_width() != out)
        throw_config("moxie::Networks: network ", e, " maps rows of ", made.input_width(),
                     " to rows of ", made.output_width(), ", expected ", s.width,
                     " (the width of a token) to ", out,
                     output > 0 ? " (output)" : " (output is 0: the width of a token)");
      if (&made.parameters() != scope.parameters.get())
        throw_config("moxie::Networks: network ", e,
                     " has parameters of its own, expected them in the scope that make was given");
    }
  }
  template <Backend B>
  void bind(B&, Arena<B>& arena, const Parameters<B>&, const State<B>& state, Index rows,
            Tape<B>& tape) const {
    using T = typename B::Scalar;
    const auto experts = state.networks.size();
    tape.networks.resize(experts);
    tape.offset.assign(experts + 1, 0);
    if (experts == 0) return;
    const Index width = state.networks.front().input_width();
    tape.x = arena.template saved<T>(rows, width);
    tape.dy = {};
    if (arena.wants_input()) tape.dy = arena.template scratch<T>(rows, output_width(width));
    const auto most_at_a_time =
        static_cast<Index>(experts) < rows ? static_cast<Index>(experts) : rows;
    std::size_t bytes = 0;
    if (most_at_a_time > 0) {
      const Index even = (rows + most_at_a_time - 1) / most_at_a_time;
      bytes = static_cast<std::size_t>(most_at_a_time) * most_bytes(arena, state, even, tape) +
              static_cast<std::size_t>(most_at_a_time - 1) * most_bytes(arena, state, 1, tape);
    }
    tape.block = arena.block(bytes);
  }
  template <Backend B>
  void forward(B& b, const Parameters<B>&, const State<B>& state, const Rows<B>& in, Matrix<B> out,
               Tape<B>& tape, const Pass<B>& pass) const {
    const Matrix<B> x = tape.x.top(in.rows);
    b.for_each(in.rows, detail::GatherNetworkRow<B>{in, x}, detail::row_grain(x.cols));
    b.copy_to_host(tape.offset.data(), in.offset.data, tape.offset.size() * sizeof(std::int32_t));
    tape.block.rewind();
    for (std::size_t e = 0; e < state.networks.size(); ++e)
      if (tape.rows(e) > 0) state.networks[e].bind(tape.block, tape.rows(e), tape.networks[e]);
    for (std::size_t e = 0; e < state.networks.size(); ++e)
      if (const Index rows = tape.rows(e); rows > 0)
        state.networks[e].forward(x.middle(tape.offset[e], rows), out.middle(tape.offset[e], rows),
                                  tape.networks[e], inside(pass, e));
  }
  template <Backend B>
  void backward(B& b, const Parameters<B>&, const State<B>& state, const Rows<B>& in,
                const Rows<B>& dy, Matrix<B> dx, Tape<B>& tape, Gradients) const {
    const Matrix<B> d = tape.dy.top(in.rows);
    b.for_each(in.rows, detail::GatherNetworkRow<B>{dy, d}, detail::row_grain(d.cols));
    // In reverse: the scratch of a network may lie where the next one's saved memory lies.
    for (std::size_t e = state.networks.size(); e-- > 0;)
      if (const Index rows = tape.rows(e); rows > 0)
        state.networks[e].backward(d.middle(tape.offset[e], rows), dx.middle(tape.offset[e], rows),
                                   tape.networks[e]);
  }

  friend constexpr bool operator==(const Networks&,
                                   const Networks&) requires std::equality_comparable<Make>
  = default;

 private:
  /// Binds every network, so that containers in the tapes have their size before the first pass.
  template <Backend B>
  static std::size_t most_bytes(const Arena<B>& arena, const State<B>& state, Index rows,
                                Tape<B>& tape) {
    std::size_t most = 0;
    for (std::size_t e = 0; e < state.networks.size(); ++e) {
      Arena<B> measured(arena.gradients());
      state.networks[e].bind(measured, rows, tape.networks[e]);
      if (measured.peak() > most) most = measured.peak();
    }
    return most;
  }
  template <Backend B>
  static Pass<B> inside(const Pass<B>& pass, std::size_t e) {
    const Random seeds(pass.seed, 0,
                       stream_id("networks", static_cast<std::uint64_t>(pass.moe_layer)));
    const Philox::Block drawn = seeds.block(static_cast<std::uint64_t>(pass.first_token), e);
    Pass<B> own = pass;
    own.seed = (std::uint64_t{drawn.v[0]} << 32U) | drawn.v[1];
    own.first_token = 0;
    own.moe_layer = 0;
    own.mask = {};
    own.pairs = {};
    own.routes = {};
    return own;
  }
};

template <class Make>
Networks(Make) -> Networks<Make>;
template <class Make>
Networks(Make, Index) -> Networks<Make>;

}  // namespace moxie
