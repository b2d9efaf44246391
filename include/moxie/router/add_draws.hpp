#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "moxie/core/random_strip.hpp"
#include "moxie/router/concept.hpp"

namespace moxie::detail {

/// Blocks of four draws of one index: a vector's worth on a host.
template <class B>
inline constexpr Index draw_blocks = std::is_same_v<typename B::Space, HostSpace> ? 16 : 1;

/// out(t, e) = in(t, e) + scale * draw e % 4 of the block counted by (first_token + t, e / 4): a function of the global
/// token and the expert, however the batch is split over passes, threads and vectors.
template <Backend B, class Draws>
struct AddDraws {
  ConstMatrix<B> in;
  Matrix<B> out;
  Random random;
  Index first_token;  // of the whole batch
  double scale;

  MOXIE_HD MOXIE_INLINE void operator()(Index index) const {
    using T = typename B::Scalar;
    constexpr Index width = draw_blocks<B>;
    const Index row_blocks = (in.cols + 3) / 4;
    const Index first = index * width;
    std::uint64_t i[static_cast<std::size_t>(width)];
    std::uint64_t j[static_cast<std::size_t>(width)];
    Index t = first / row_blocks;
    Index at = first % row_blocks;
    for (Index s = 0; s < width; ++s) {
      i[s] = static_cast<std::uint64_t>(first_token + t);
      j[s] = static_cast<std::uint64_t>(at);
      if (++at == row_blocks) {
        at = 0;
        ++t;
      }
    }
    const Unfused times;
    double draw[4][static_cast<std::size_t>(width)];
    Draws::template draw<width>(BlockStrip<width>(random, i, j), times, draw);
    T noise[4][static_cast<std::size_t>(width)];
    for (int k = 0; k < 4; ++k)
      for (Index s = 0; s < width; ++s) noise[k][s] = static_cast<T>(times(scale, draw[k][s]));
    t = first / row_blocks;
    at = first % row_blocks;
    for (Index s = 0; s < width && t < in.rows; ++s) {
      const Index n = in.cols - 4 * at < 4 ? in.cols - 4 * at : 4;
      const T* from = in.row(t) + 4 * at;
      T* to = out.row(t) + 4 * at;
      for (Index k = 0; k < n; ++k) to[k] = from[k] + noise[k][s];
      if (++at == row_blocks) {
        at = 0;
        ++t;
      }
    }
  }
};

template <class Draws, Backend B>
void add_draws(B& b, const Context<B>& ctx, double scale, ConstMatrix<B> in, Matrix<B> out) {
  const Index blocks = in.rows * ((in.cols + 3) / 4);
  b.for_each((blocks + draw_blocks<B> - 1) / draw_blocks<B>,
             AddDraws<B, Draws>{in, out, ctx.random("router noise"), ctx.first_token, scale});
}

}  // namespace moxie::detail
