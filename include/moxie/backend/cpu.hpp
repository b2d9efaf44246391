#pragma once

#include <concepts>
#include <cstddef>
#include <cstring>
#include <new>
#include <type_traits>

#include "moxie/backend/concept.hpp"
#include "moxie/backend/cpu/level.hpp"
#include "moxie/backend/cpu/loops.hpp"
#include "moxie/backend/cpu/options.hpp"
#include "moxie/backend/cpu/pages.hpp"
#include "moxie/backend/cpu/twins.hpp"
#include "moxie/core/error.hpp"
#include "moxie/core/executor.hpp"

namespace moxie {

/// Layers on this machine's processor: own kernels, picked by instruction set when the program runs, on the
/// threads of an Executor. Every call returns when its work is done.
///
/// A cheap handle without mutable state: copy it freely, use one from several threads at once. The executor
/// is not owned and must outlive it. No primitive allocates (without a ProductEngine); each task takes up to
/// 350 KiB of its worker's stack. All members throw shape_error, before anything is written, if shapes do
/// not agree.
template <std::floating_point T>
class CpuBackend : public detail::CpuTwins<T> {
 public:
  using Scalar = T;
  using Store = T;
  using Space = HostSpace;
  /// Promised by the own product: an element of a product is one sum in ascending order of the inner index,
  /// whatever rows stand beside it.
  static constexpr bool batch_invariant = true;

  /// One thread, the widest instruction set of the machine.
  CpuBackend() = default;
  /// @throws config_error if options.level names instructions that the machine lacks.
  explicit CpuBackend(CpuOptions options)
      : level_(checked(options)), product_(options.product), copies_(options.copies) {}
  explicit CpuBackend(Executor& executor, CpuOptions options = {})
      : executor_(&executor),
        level_(checked(options)),
        product_(options.product),
        copies_(options.copies) {}

  Level level() const noexcept { return level_; }
  const ProductEngine* product() const noexcept { return product_; }  ///< null: own
  WeightCopies copies() const noexcept { return copies_; }
  Executor* executor() const noexcept { return executor_; }  ///< null: the calling thread alone
  int workers() const noexcept { return executor_ == nullptr ? 1 : executor_->workers(); }
  /// f(task, worker) for each task below `tasks`, on the executor; a single task runs here. Not from
  /// inside a task.
  template <class F>
  void parallel(Index tasks, const F& f) const {
    detail::run_tasks(executor_, tasks, TaskRef(f));
  }
  /// f(L{}), compiled for this backend's level: see backend/cpu/level.hpp.
  template <class F>
  void at_level(const F& f) const {
    detail::at_level(level_, f);
  }

  /// Aligned to 256 bytes; from 2 MiB on, on huge pages where the system gives some. @throws std::bad_alloc
  void* allocate(std::size_t bytes) const { return detail::allocate_pages(bytes); }
  void deallocate(void* p, std::size_t bytes) const { detail::free_pages(p, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) const {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void copy_from_host(void* to, const void* from, std::size_t bytes) const {
    copy(to, from, bytes);
  }
  void copy_to_host(void* to, const void* from, std::size_t bytes) const { copy(to, from, bytes); }
  template <class U>
  void fill(VectorView<U> v, std::type_identity_t<U> value) const;
  void synchronize() const {}

  /// f(i) for each i < n; at least `grain` a task. f is copied; it runs compiled for `level()`.
  template <class F>
  void for_each(Index n, const F& f, Index grain = 64) const;
  /// f(i, j) for each i < rows, j < cols.
  template <class F>
  void for_each(Index rows, Index cols, const F& f) const;

  /// out[c] += sum of f(r, c) over r, in chunks of `sum_chunk` rows.
  std::size_t column_sums_bytes(Index rows, Index cols) const;
  template <class F>
  void column_sums(Index rows, Index cols, const F& f, VectorView<T> out,
                   VectorView<std::byte> scratch) const;

  /// c = alpha op(a) op(b) + beta c; with beta 0, c is not read.
  void gemm(Op op_a, Op op_b, T alpha, MatrixView<const T> a, MatrixView<const T> b, T beta,
            MatrixView<T> c) const;
  /// The same for each (image, head).
  void batched_gemm(Op op_a, Op op_b, T alpha, BatchView<const T> a, BatchView<const T> b, T beta,
                    BatchView<T> c) const;
  /// out[r, :] = rows(r, :) op(w_e) for each row r of each expert e; a row's scale multiplies its sums.
  template <class B>
  void grouped_gemm(const Rows<B>& rows, Op op, MatrixView<const T> w, MatrixView<T> out) const;
  /// dw_e += sum over the rows r of e of rows(r, :)^T dy(r, :).
  template <class B>
  void grouped_gemm_weights(const Rows<B>& rows, const Rows<B>& dy, MatrixView<T> dw) const;

  /// Stable, keys in [0, 2^bits). Cost: O(n bits / 11), one thread.
  std::size_t sort_pairs_bytes(Index n) const { return static_cast<std::size_t>(n) * 8; }
  void sort_pairs(VectorView<std::int32_t> keys, VectorView<std::int32_t> values, int bits,
                  VectorView<std::byte> scratch) const;
  std::size_t exclusive_scan_bytes(Index /*n*/) const { return 0; }
  void exclusive_scan(VectorView<const std::int32_t> in, VectorView<std::int32_t> out,
                      VectorView<std::byte> scratch) const;

 private:
  static Level checked(const CpuOptions& options);
  void check_column_sums(Index rows, Index cols, VectorView<T> out,
                         VectorView<std::byte> scratch) const;
  static void check_product(const char* who, Op op_a, Op op_b, MatrixView<const T> a,
                            MatrixView<const T> b, MatrixView<T> c);

  Executor* executor_ = nullptr;
  Level level_ = machine_level();
  const ProductEngine* product_ = nullptr;
  WeightCopies copies_ = WeightCopies::packed;
};

}  // namespace moxie

#include "moxie/backend/cpu/cpu_impl.hpp"

namespace moxie {
static_assert(Backend<CpuBackend<float>> && Backend<CpuBackend<double>>);
}
