#pragma once

#include <cstddef>
#include <cstdint>

#include "moxie/backend/device/kernels/mma.hpp"
#include "moxie/backend/device/portable.hpp"
#include "moxie/core/view.hpp"

/// How tiles of matrices come into shared memory, and how a block multiplies one pair of tiles
/// while the next are on their way.
#if defined(MOXIE_KERNELS)

namespace moxie::detail::device {

/// `Rows` runs of `Cols` elements each; a run lies together in global memory too. `Pad` elements
/// between the runs spread what a warp reads at once over the banks.
///
/// A factor's tile is *along* if its runs go along the inner dimension of the product, and *across*
/// if each run is one step of the inner dimension.
template <class T, int Rows, int Cols, int Pad>
struct Tile {
  static constexpr int rows = Rows;
  static constexpr int cols = Cols;
  static constexpr int stride = Cols + Pad;
  static constexpr int size = Rows * stride;
  static_assert(stride * sizeof(T) % 16 == 0, "each run must be aligned for copies of 16 bytes");
};

/// T[N]: a bound that depends on a template's int would draw a warning of a changed sign.
template <class T, int N>
using Array = T[static_cast<std::size_t>(N)];

/// Neighbours, read and written at once.
template <class T, int N>
struct alignas(N* static_cast<int>(sizeof(T))) [[gnu::may_alias]] Run {
  static constexpr int size = N;
  Array<T, N> v;

  MOXIE_HD T& operator[](int i) { return v[i]; }
  MOXIE_HD const T& operator[](int i) const { return v[i]; }
};
/// As many as are copied at once.
template <class T>
using Chunk = Run<T, 16 / static_cast<int>(sizeof(T))>;
template <class T>
MOXIE_DEVICE Chunk<T> read_chunk(const T* from) {
  return *reinterpret_cast<const Chunk<T>*>(from);
}

/// A matrix in global memory. `aligned`: its rows begin and end at multiples of 16 bytes.
template <class T>
struct Strided {
  T* data = nullptr;
  Index stride = 0;
  bool aligned = false;

  Strided() = default;
  MOXIE_HD Strided(T* d, Index s, bool a) : data(d), stride(s), aligned(a) {}
  template <class Space>
  explicit Strided(MatrixView<T, Space> m)
      : data(m.data),
        stride(m.stride),
        aligned(reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0 &&
                m.stride % Chunk<T>::size == 0 && m.cols % Chunk<T>::size == 0) {}
  MOXIE_HD T* row(Index i) const { return data + i * stride; }
};

/// The copies of load_tile by `Each` elements, as those of one thread.
template <class Tile, int Threads, int Each, class T, class RunOf>
MOXIE_DEVICE void load_elements(T* to, const T* any, int col, int cols, const RunOf& run_of) {
  constexpr int per_run = Tile::cols / Each;
  constexpr int at_once = Threads / per_run;
  static_assert(Tile::cols % Each == 0 && Threads % per_run == 0 && Tile::rows % at_once == 0,
                "all threads must copy equally often");
  const int thread = static_cast<int>(threadIdx.x);
  const int c = thread % per_run * Each;
  const auto copy = [&](int run) {
    const T* const row = run_of(run);
    const bool valid = row != nullptr && col + c < cols;
    const T* const from = valid ? row + col + c : any;
    T* const element = to + run * Tile::stride + c;
    if constexpr (Each * sizeof(T) >= 4) {
      copy_async<Each * sizeof(T)>(element, from, valid);
    } else {
      *element = valid ? *from : T{};
    }
  };
  if constexpr (Each > 1) {
    MOXIE_UNROLL
    for (int i = 0; i < Tile::rows; i += at_once) copy(i + thread / per_run);
  } else {
    for (int i = 0; i < Tile::rows; i += at_once) copy(i + thread / per_run);
  }
}

/// Enqueues the copy of a tile whose run i is `run_of(i)[col, col + Tile::cols)`, with zeros from
/// `cols` on, and zeros only where run_of(i) is null. All threads of the block take part; for an
/// element of 2 bytes that is not `aligned` there is no such copy, and it is done on return.
/// run_of is called by whole warps.
template <class Tile, int Threads, class T, class RunOf>
MOXIE_DEVICE void load_tile(T* to, const Strided<const T>& from, int col, int cols,
                            const RunOf& run_of) {
  if (from.aligned) {
    load_elements<Tile, Threads, Chunk<T>::size>(to, from.data, col, cols, run_of);
  } else {
    load_elements<Tile, Threads, 1>(to, from.data, col, cols, run_of);
  }
}

/// use(step's buffer) for each step in order, while up to Stages - 1 later steps are loaded by
/// load(step, its buffer), which is called by all threads and for one step after the other. After
/// the next barrier all threads are done with all buffers.
template <int Stages, class Load, class Use>
MOXIE_DEVICE void pipeline(int steps, const Load& load, const Use& use) {
  for (int s = 0; s < Stages - 1; ++s) {
    if (s < steps) load(s, s);
    copy_async_commit();
  }
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<Stages - 2>();  // this thread's copies for `step` are done,
    __syncthreads();                // all threads' are, and all have used the step before
    const int next = step + Stages - 1;
    if (next < steps) load(next, next % Stages);
    copy_async_commit();  // also without copies, so that groups count steps
    use(step % Stages);
  }
  copy_async_wait<0>();
}

}  // namespace moxie::detail::device

#endif
