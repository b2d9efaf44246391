#pragma once

#include <cstdint>
#include <memory>
#include <vector>

// Shared with a library of its own, so that both sides know its type by the same name.
#pragma GCC visibility push(default)
#include "moxie/core/executor.hpp"
#pragma GCC visibility pop

// The products of a layer's experts and nothing else, by several engines.

namespace bench {

/// Sizes, input and results; row-major. Expert e has rows [e rows, (e + 1) rows), of widths D and H.
struct ProductsProblem {
  moxie::Index experts = 0;              ///< E
  moxie::Index rows = 0;                 ///< of an expert
  moxie::Index width = 0;                ///< D
  moxie::Index hidden = 0;               ///< H
  moxie::Index tokens = 0;               ///< T
  const float* x = nullptr;              ///< [T, D]
  const float* dy = nullptr;             ///< [T, D]
  const std::int32_t* index = nullptr;   ///< [R] token of each row
  const std::int32_t* offset = nullptr;  ///< [E + 1] first row of each expert
  const float* scale = nullptr;          ///< [R] factor of each row of dy
  const float* x_rows = nullptr;   ///< [R, D] the rows of x, copied: for engines that do not gather
  const float* dy_rows = nullptr;  ///< [R, D] likewise of dy, scaled
  const float* w1 = nullptr;       ///< [E, D, H]
  const float* w2 = nullptr;       ///< [E, H, D]
  float* hidden_rows = nullptr;    ///< [R, H] x_rows w1
  float* out_rows = nullptr;       ///< [R, D] hidden_rows w2
  float* d_hidden_rows = nullptr;  ///< [R, H] dy_rows w2^T
  float* dx_rows = nullptr;        ///< [R, D] d_hidden_rows w1^T
  float* dw1 = nullptr;            ///< [E, D, H] += x_rows^T d_hidden_rows
  float* dw2 = nullptr;            ///< [E, H, D] += hidden_rows^T dy_rows

  double forward_flops() const {
    return 4.0 * static_cast<double>(experts * rows * width * hidden);
  }
};

class [[gnu::visibility("default")]] ProductsEngine {
 public:
  ProductsEngine() = default;
  ProductsEngine(const ProductsEngine&) = delete;
  ProductsEngine& operator=(const ProductsEngine&) = delete;
  virtual ~ProductsEngine() = default;

  virtual void forward() = 0;   ///< hidden_rows, out_rows
  virtual void backward() = 0;  ///< the four others, of the hidden_rows of the last forward
};

/// The library's, compiled with all instructions of this machine. It gathers and scales while it multiplies.
[[gnu::visibility("default")]] std::unique_ptr<ProductsEngine> make_native_products(
    const ProductsProblem& problem, moxie::Executor& executor);
/// Eigen's, compiled with all instructions of this machine, expert by expert.
[[gnu::visibility("default")]] std::unique_ptr<ProductsEngine> make_eigen_products(
    const ProductsProblem& problem, moxie::Executor& executor);
/// oneDNN's sgemm, expert by expert, one thread each. Null if the benchmark was configured without oneDNN.
std::unique_ptr<ProductsEngine> make_dnnl_products(const ProductsProblem& problem,
                                                   moxie::Executor& executor);

}  // namespace bench
