#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../layer_input.hpp"
#include "engines/own_products.hpp"
#include "moxie/backend/cpu/pages.hpp"
#include "moxie/core/error.hpp"
#include "moxie/ops/expert_product.hpp"

namespace bench {

/// Huge pages for all engines alike: the library asks for them, and products walk through memory in long strides.
template <class T>
struct PageAllocator {
  using value_type = T;
  PageAllocator() = default;
  template <class U>
  explicit PageAllocator(const PageAllocator<U>&) {}
  T* allocate(std::size_t n) {
    return static_cast<T*>(moxie::detail::allocate_pages(n * sizeof(T)));
  }
  void deallocate(T* p, std::size_t n) { moxie::detail::free_pages(p, n * sizeof(T)); }
  friend bool operator==(PageAllocator, PageAllocator) { return true; }
};
using Numbers = std::vector<float, PageAllocator<float>>;

struct ProductsShape {
  Index experts, rows, choices, width, hidden;  // rows: of an expert
};

/// Numbers for the products of E experts with equally many rows, and room for their results. K rows of each of T tokens,
/// token t's at experts chosen evenly: row r of expert e is token (r E + e) / K, so no two rows of a token meet.
class ProductsFixture {
 public:
  explicit ProductsFixture(const ProductsShape& s)
      : index_(static_cast<std::size_t>(s.experts * s.rows)),
        offset_(static_cast<std::size_t>(s.experts + 1)),
        scale_(index_.size(), 0.5F) {
    problem_.experts = s.experts;
    problem_.rows = s.rows;
    problem_.width = s.width;
    problem_.hidden = s.hidden;
    problem_.tokens = s.experts * s.rows / s.choices;
    const Index rows = s.experts * s.rows;
    for (Index e = 0; e < s.experts; ++e)
      for (Index r = 0; r < s.rows; ++r)
        index_[static_cast<std::size_t>(e * s.rows + r)] =
            static_cast<std::int32_t>((r * s.experts + e) / s.choices);
    for (Index e = 0; e <= s.experts; ++e)
      offset_[static_cast<std::size_t>(e)] = static_cast<std::int32_t>(e * s.rows);
    x_ = numbers(problem_.tokens * s.width, 2, 1);
    dy_ = numbers(problem_.tokens * s.width, 6, 1);
    w1_ = numbers(s.experts * s.width * s.hidden, 7, s.width);
    w2_ = numbers(s.experts * s.width * s.hidden, 8, s.hidden);
    copy_rows(x_, 1.0F, x_rows_);
    copy_rows(dy_, 0.5F, dy_rows_);
    for (auto* v : {&hidden_rows_, &d_hidden_rows_})
      v->resize(static_cast<std::size_t>(rows * moxie::detail::row_stride<float>(s.hidden)));
    for (auto* v : {&out_rows_, &dx_rows_}) v->resize(static_cast<std::size_t>(rows * s.width));
    for (auto* v : {&dw1_, &dw2_}) v->resize(w1_.size());
    problem_.x = x_.data();
    problem_.dy = dy_.data();
    problem_.index = index_.data();
    problem_.offset = offset_.data();
    problem_.scale = scale_.data();
    problem_.x_rows = x_rows_.data();
    problem_.dy_rows = dy_rows_.data();
    problem_.w1 = w1_.data();
    problem_.w2 = w2_.data();
    problem_.hidden_rows = hidden_rows_.data();
    problem_.out_rows = out_rows_.data();
    problem_.d_hidden_rows = d_hidden_rows_.data();
    problem_.dx_rows = dx_rows_.data();
    problem_.dw1 = dw1_.data();
    problem_.dw2 = dw2_.data();
  }
  ProductsFixture(const ProductsFixture&) = delete;
  ProductsFixture& operator=(const ProductsFixture&) = delete;

  const ProductsProblem& problem() const { return problem_; }

  /// @throws numeric_error unless all engines compute the same
  void check(const std::vector<ProductsEngine*>& engines) {
    std::vector<Numbers> expected;
    for (ProductsEngine* engine : engines) {
      for (Numbers* v : results()) std::fill(v->begin(), v->end(), 0.0F);
      engine->forward();
      engine->backward();
      std::size_t i = 0;
      for (const Numbers* v : results()) {
        if (engine == engines.front()) {
          expected.push_back(*v);
        } else {
          compare(*v, expected[i]);
        }
        ++i;
      }
    }
  }

 private:
  std::vector<Numbers*> results() {
    return {&hidden_rows_, &out_rows_, &d_hidden_rows_, &dx_rows_, &dw1_, &dw2_};
  }
  static void compare(const Numbers& found, const Numbers& expected) {
    float most = 0;
    float difference = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      most = std::max(most, std::abs(expected[i]));
      difference = std::max(difference, std::abs(found[i] - expected[i]));
    }
    if (!(difference <= 1e-3F * most))
      moxie::throw_numeric("an engine multiplies otherwise than the library: results differ by ",
                           difference, ", the largest is ", most);
  }
  /// N(0, 1 / inner).
  static Numbers numbers(Index n, std::uint64_t seed, Index inner) {
    const std::vector<float> drawn = normal_numbers(n, seed);
    Numbers out(drawn.begin(), drawn.end());
    const float factor = 1 / std::sqrt(static_cast<float>(inner));
    for (float& x : out) x *= factor;
    return out;
  }
  void copy_rows(const Numbers& from, float factor, Numbers& to) const {
    to.reserve(index_.size() * static_cast<std::size_t>(problem_.width));
    for (const std::int32_t token : index_)
      for (Index j = 0; j < problem_.width; ++j)
        to.push_back(factor * from[static_cast<std::size_t>(token * problem_.width + j)]);
  }

  ProductsProblem problem_;
  std::vector<std::int32_t> index_, offset_;
  Numbers scale_, x_, dy_, w1_, w2_, x_rows_, dy_rows_;
  Numbers hidden_rows_, out_rows_, d_hidden_rows_, dx_rows_, dw1_, dw2_;
};

}  // namespace bench
