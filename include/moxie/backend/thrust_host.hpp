#pragma once

/// `ThrustHostBackend<T>`: the device backend on Thrust's C++ system, by an ordinary compiler and
/// without a GPU. It is the rehearsal of the CUDA backend: slow, one thread, the same source.
///
/// Link moxie::thrust_host, which brings Thrust's headers and its choice of systems.
#if !defined(__CUDACC__) && !defined(THRUST_DEVICE_SYSTEM)
#error "moxie/backend/thrust_host.hpp: link moxie::thrust_host (THRUST_DEVICE_SYSTEM is not set)"
#endif

#include <thrust/system/cpp/execution_policy.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "moxie/backend/concept.hpp"
#include "moxie/backend/device/device_backend.hpp"
#include "moxie/backend/device/leaf.hpp"
#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

/// Host memory, and a queue that is always empty: each operation is done when it returns.
class ThrustHostLeaf {
 public:
  using Space = HostSpace;
  static constexpr bool batch_invariant = true;

  auto policy() const { return thrust::cpp::par; }

  void* allocate(std::size_t bytes) { return ::operator new(bytes, alignment); }
  void deallocate(void* p, std::size_t /*bytes*/) { ::operator delete(p, alignment); }
  void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);  // memcpy takes no null, not even for nothing
  }
  void copy_from_host(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  void copy_to_host(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  void synchronize() {}

  std::size_t sort_pairs_bytes(Index n) const {
    return 2 * static_cast<std::size_t>(n) * sizeof(std::int32_t);
  }
  /// Radix sort from the lowest digit up: stable, and unlike std::stable_sort it takes its memory
  /// from us.
  void sort_pairs(std::int32_t* keys, std::int32_t* values, Index n, int bits, std::byte* scratch) {
    Pairs from{keys, values};
    Pairs to{reinterpret_cast<std::int32_t*>(scratch),
             reinterpret_cast<std::int32_t*>(scratch) + n};
    for (int shift = 0; shift < bits; shift += digit_bits) {
      const int width = bits - shift < digit_bits ? bits - shift : digit_bits;
      sort_digit(from, to, n, shift, (std::uint32_t{1} << width) - 1);
      std::swap(from, to);
    }
    if (from.keys != keys) {
      copy(keys, from.keys, static_cast<std::size_t>(n) * sizeof(std::int32_t));
      copy(values, from.values, static_cast<std::size_t>(n) * sizeof(std::int32_t));
    }
  }

  std::size_t exclusive_scan_bytes(Index /*n*/) const { return 0; }
  void exclusive_scan(const std::int32_t* in, std::int32_t* out, Index n, std::byte* /*scratch*/) {
    std::int32_t sum = 0;
    for (Index i = 0; i < n; ++i) {
      const std::int32_t value = in[i];  // before `out`, which may be `in`, is written
      out[i] = sum;
      sum += value;
    }
  }

  template <class T>
  void gemm_strided(Op op_a, Op op_b, Index m, Index n, Index k, T alpha, const T* a, Index lda,
                    Index stride_a, const T* b, Index ldb, Index stride_b, T beta, T* c, Index ldc,
                    Index stride_c, Index batch) {
    require_leading("lda", lda, op_a == Op::none ? m : k);
    require_leading("ldb", ldb, op_b == Op::none ? k : n);
    require_leading("ldc", ldc, m);
    const Steps step_a = op_a == Op::none ? Steps{1, lda} : Steps{lda, 1};
    const Steps step_b = op_b == Op::none ? Steps{1, ldb} : Steps{ldb, 1};
    for (Index q = 0; q < batch; ++q) {
      for (Index j = 0; j < n; ++j) {
        for (Index i = 0; i < m; i += strip) {
          multiply_strip(i + strip < m ? strip : m - i, k, alpha, a + q * stride_a + i * step_a.row,
                         step_a, b + q * stride_b + j * step_b.col, step_b.row, beta,
                         c + q * stride_c + j * ldc + i);
        }
      }
    }
  }

 private:
  struct Pairs {
    std::int32_t* keys;
    std::int32_t* values;
  };
  /// Elements between neighbours of a factor op(X): down a column, along a row.
  struct Steps {
    Index row;
    Index col;
  };

  static constexpr std::align_val_t alignment{256};
  static constexpr int digit_bits = 8;
  static constexpr Index strip = 32;

  static void sort_digit(Pairs from, Pairs to, Index n, int shift, std::uint32_t mask) {
    const auto digit = [&](Index i) {
      return (static_cast<std::uint32_t>(from.keys[i]) >> shift) & mask;
    };
    Index next[1 << digit_bits] = {};  // where the next pair of each digit goes
    for (Index i = 0; i < n; ++i) ++next[digit(i)];
    Index first = 0;
    for (Index& position : next) first += std::exchange(position, first);
    for (Index i = 0; i < n; ++i) {
      const Index position = next[digit(i)]++;
      to.keys[position] = from.keys[i];
      to.values[position] = from.values[i];
    }
  }

  static void require_leading(const char* name, Index leading, Index rows) {
    if (leading < (rows > 0 ? rows : 1)) {
      throw_shape("moxie::ThrustHostLeaf::gemm_strided: ", name, " is ", leading,
                  ", expected at least ", rows > 0 ? rows : 1,
                  " (the rows of the matrix as stored)");
    }
  }

  /// `rows` neighbours of a column of C. Each is one sum in ascending inner index, whatever lies
  /// beside it; together they read op(A) along memory.
  template <class T>
  static void multiply_strip(Index rows, Index k, T alpha, const T* a, Steps step_a, const T* b,
                             Index step_b, T beta, T* c) {
    T sum[strip] = {};
    for (Index p = 0; p < k; ++p) {
      for (Index i = 0; i < rows; ++i) sum[i] += a[i * step_a.row + p * step_a.col] * b[p * step_b];
    }
    for (Index i = 0; i < rows; ++i) {
      c[i] = beta == T(0) ? alpha * sum[i] : alpha * sum[i] + beta * c[i];
    }
  }
};

template <class T>
using ThrustHostBackend = DeviceBackend<T, ThrustHostLeaf>;

static_assert(Backend<ThrustHostBackend<float>> && Backend<ThrustHostBackend<double>>);

}  // namespace moxie
