#pragma once

#include "moxie/backend/cpu.hpp"
#include "moxie/backend/cpu/engine_products.hpp"
#include "moxie/backend/cpu/loops.hpp"
#include "moxie/backend/cpu/products.hpp"
#include "moxie/backend/cpu/sort.hpp"

namespace moxie {

template <std::floating_point T>
Level CpuBackend<T>::checked(const CpuOptions& options) {
  const Level widest = machine_level();
  const Level level = options.level.value_or(widest);
  if (level > widest) {
    throw_config("moxie::CpuBackend: CpuOptions::level is ", to_string(level),
                 ", but this machine has ", to_string(widest));
  }
  if (options.copies.narrow() != nullptr && !std::same_as<T, float>)
    throw_config("moxie::CpuBackend: CpuOptions::copies is bf16, which only CpuBackend<float> has");
  return level;
}

template <std::floating_point T>
template <class U>
void CpuBackend<T>::fill(VectorView<U> v, std::type_identity_t<U> value) const {
  for_each(v.size, detail::FillElement<U>{v.data, value}, 16384);
}

template <std::floating_point T>
template <class F>
void CpuBackend<T>::for_each(Index n, const F& f, Index grain) const {
  detail::run_range(executor_, n, grain, detail::range_loop<F>(level_), &f);
}

template <std::floating_point T>
template <class F>
void CpuBackend<T>::for_each(Index rows, Index cols, const F& f) const {
  detail::run_block(executor_, rows, cols, detail::block_loop<F>(level_), &f);
}

template <std::floating_point T>
std::size_t CpuBackend<T>::column_sums_bytes(Index rows, Index cols) const {
  return static_cast<std::size_t>(detail::divide_up(rows, sum_chunk) * cols) * sizeof(T);
}

template <std::floating_point T>
void CpuBackend<T>::check_column_sums(Index rows, Index cols, VectorView<T> out,
                                      VectorView<std::byte> scratch) const {
  if (out.size != cols) {
    throw_shape("moxie::CpuBackend::column_sums: out has ", out.size, " elements, expected ", cols);
  }
  const std::size_t bytes = column_sums_bytes(rows, cols);
  if (static_cast<std::size_t>(scratch.size) < bytes) {
    throw_shape("moxie::CpuBackend::column_sums: scratch has ", scratch.size, " bytes, expected ",
                bytes, " (column_sums_bytes)");
  }
}

template <std::floating_point T>
template <class F>
void CpuBackend<T>::column_sums(Index rows, Index cols, const F& f, VectorView<T> out,
                                VectorView<std::byte> scratch) const {
  check_column_sums(rows, cols, out, scratch);
  if (rows < 1 || cols < 1) return;
  T* const sums = reinterpret_cast<T*>(scratch.data);
  detail::run_chunks<T>(executor_, level_, rows, cols, detail::sum_chunk_at<T, F>, &f, sums);
  for_each(cols, detail::AddChunks<T>{{sums, detail::divide_up(rows, sum_chunk), cols}, out.data},
           4096);
}

template <std::floating_point T>
void CpuBackend<T>::check_product(const char* who, Op op_a, Op op_b, MatrixView<const T> a,
                                  MatrixView<const T> b, MatrixView<T> c) {
  const Index rows = op_a == Op::none ? a.rows : a.cols;
  const Index inner = op_a == Op::none ? a.cols : a.rows;
  const Index inner_b = op_b == Op::none ? b.rows : b.cols;
  const Index cols = op_b == Op::none ? b.cols : b.rows;
  if (inner != inner_b || c.rows != rows || c.cols != cols) {
    throw_shape("moxie::CpuBackend::", who, ": op(a) is [", rows, " x ", inner, "], op(b) is [",
                inner_b, " x ", cols, "], c is [", c.rows, " x ", c.cols, "]");
  }
}

template <std::floating_point T>
void CpuBackend<T>::gemm(Op op_a, Op op_b, T alpha, MatrixView<const T> a, MatrixView<const T> b,
                         T beta, MatrixView<T> c) const {
  check_product("gemm", op_a, op_b, a, b, c);
  const Index inner = op_a == Op::none ? a.cols : a.rows;
  if (product_ != nullptr) {
    parallel(detail::divide_up(c.rows, detail::engine_rows), [&](Index task, int) {
      const Index first = task * detail::engine_rows;
      const Index n = detail::smaller(detail::engine_rows, c.rows - first);
      product_->gemm(op_a, op_b, alpha, op_a == Op::none ? a.middle(first, n) : a.columns(first, n),
                     b, beta, c.middle(first, n));
    });
    return;
  }
  const detail::BlockProduct<T> product{{a.data, a.stride, op_a, nullptr, nullptr},
                                        {b.data, b.stride, op_b, nullptr, nullptr},
                                        c.data,
                                        c.stride,
                                        0,
                                        0,
                                        0,
                                        0,
                                        0,
                                        inner,
                                        alpha,
                                        beta};
  const detail::AnyLevel level{level_};
  const detail::Cut cut = detail::cut_product<T>(c.rows, c.cols, inner, op_a, workers());
  parallel(cut.tasks(), [&](Index task, int) { detail::GemmTask<T>{product, cut, task}(level); });
}

template <std::floating_point T>
void CpuBackend<T>::batched_gemm(Op op_a, Op op_b, T alpha, BatchView<const T> a,
                                 BatchView<const T> b, T beta, BatchView<T> c) const {
  check_product("batched_gemm", op_a, op_b, a.first, b.first, c.first);
  if (a.images != c.images || b.images != c.images || a.heads != c.heads || b.heads != c.heads) {
    throw_shape("moxie::CpuBackend::batched_gemm: a, b, c have ", a.images, ", ", b.images, ", ",
                c.images, " images of ", a.heads, ", ", b.heads, ", ", c.heads,
                " heads, expected the same");
  }
  const Index products = c.images * c.heads;
  if (product_ != nullptr) {
    parallel(products, [&](Index i, int) {
      const Index image = i / c.heads;
      const Index head = i % c.heads;
      product_->gemm(op_a, op_b, alpha, a(image, head), b(image, head), beta, c(image, head));
    });
    return;
  }
  const Index inner = op_a == Op::none ? a.first.cols : a.first.rows;
  const Index work = c.first.rows * c.first.cols * (inner > 0 ? inner : 1);
  const detail::AnyLevel level{level_};
  const Index step =
      detail::task_size(products, workers(), detail::divide_up(detail::worth_a_task, work + 1));
  parallel(detail::divide_up(products, step), [&](Index task, int) {
    const Index first = task * step;
    detail::BatchedTask<T>{
        a, b, c, op_a, op_b, alpha, beta, first, detail::smaller(first + step, products)}(level);
  });
}

template <std::floating_point T>
template <class B>
void CpuBackend<T>::grouped_gemm(const Rows<B>& rows, Op op, MatrixView<const T> w,
                                 MatrixView<T> out) const {
  const Index experts = rows.experts();
  const Index inner = rows.x.cols;
  if (w.cols != (op == Op::none ? out.cols : inner) ||
      w.rows != experts * (op == Op::none ? inner : out.cols)) {
    throw_shape("moxie::CpuBackend::grouped_gemm: rows are ", inner, " wide, out ", out.cols,
                ", and w is [", w.rows, " x ", w.cols, "] for ", experts, " experts, op ",
                op == Op::none ? "none" : "transpose");
  }
  if (experts < 1) return;
  const std::int32_t* const offset = rows.offset.data;
  const Index count = offset[experts] - offset[0];
  if (offset[experts] > out.rows) {
    throw_shape("moxie::CpuBackend::grouped_gemm: out has ", out.rows, " rows, expected ",
                offset[experts], " (the last offset)");
  }
  if (product_ != nullptr) {
    parallel(experts, [&](Index e, int) {
      detail::engine_rows_of(*product_, rows, e, op,
                             w.middle(e * (w.rows / experts), w.rows / experts), out);
    });
    return;
  }
  const detail::Factor<T> x{rows.x.data, rows.x.stride, Op::none, rows.index.data, rows.scale.data};
  const detail::AnyLevel level{level_};
  const detail::Cut cut = detail::cut_product<T>(count, out.cols, inner, Op::none, workers());
  parallel(cut.tasks(), [&](Index task, int) {
    detail::GroupedTask<T>{x, w, op, out, offset, experts, inner, cut, task}(level);
  });
}

template <std::floating_point T>
template <class B>
void CpuBackend<T>::grouped_gemm_weights(const Rows<B>& rows, const Rows<B>& dy,
                                         MatrixView<T> dw) const {
  const Index experts = rows.experts();
  const Index height = rows.x.cols;
  if (dy.experts() != experts || dw.rows != experts * height || dw.cols != dy.x.cols) {
    throw_shape("moxie::CpuBackend::grouped_gemm_weights: rows are ", height, " wide for ", experts,
                " experts, dy ", dy.x.cols, " wide for ", dy.experts(), ", and dw is [", dw.rows,
                " x ", dw.cols, "]");
  }
  if (experts < 1) return;
  const std::int32_t* const offset = rows.offset.data;
  if (product_ != nullptr) {
    parallel(experts, [&](Index e, int) {
      detail::engine_weights_of(*product_, rows, dy, e, dw.middle(e * height, height));
    });
    return;
  }
  const detail::Factor<T> x{rows.x.data, rows.x.stride, Op::transpose, rows.index.data,
                            rows.scale.data};
  const detail::Factor<T> g{dy.x.data, dy.x.stride, Op::none, dy.index.data, dy.scale.data};
  const Index count = offset[experts] - offset[0];
  const detail::AnyLevel level{level_};
  const detail::Cut cut =
      detail::cut_product<T>(height, dw.cols, count / experts, Op::transpose, workers(), experts);
  parallel(cut.tasks() * experts, [&](Index task, int) {
    detail::GroupedWeightsTask<T>{x, g, dw, offset, cut, task}(level);
  });
}

template <std::floating_point T>
void CpuBackend<T>::sort_pairs(VectorView<std::int32_t> keys, VectorView<std::int32_t> values,
                               int bits, VectorView<std::byte> scratch) const {
  if (values.size != keys.size || bits < 0 || bits > 31) {
    throw_shape("moxie::CpuBackend::sort_pairs: ", keys.size, " keys of ", bits, " bits and ",
                values.size, " values, expected as many of both and at most 31 bits");
  }
  if (static_cast<std::size_t>(scratch.size) < sort_pairs_bytes(keys.size)) {
    throw_shape("moxie::CpuBackend::sort_pairs: scratch has ", scratch.size, " bytes, expected ",
                sort_pairs_bytes(keys.size), " (sort_pairs_bytes)");
  }
  detail::radix_sort(keys.data, values.data, keys.size, bits,
                     reinterpret_cast<std::int32_t*>(scratch.data));
}

template <std::floating_point T>
void CpuBackend<T>::exclusive_scan(VectorView<const std::int32_t> in, VectorView<std::int32_t> out,
                                   VectorView<std::byte> /*scratch*/) const {
  if (in.size != out.size) {
    throw_shape("moxie::CpuBackend::exclusive_scan: in has ", in.size, " elements, out ", out.size,
                ", expected the same");
  }
  std::int32_t sum = 0;
  for (Index i = 0; i < in.size; ++i) {
    const std::int32_t next = in[i];
    out[i] = sum;
    sum += next;
  }
}

}  // namespace moxie
