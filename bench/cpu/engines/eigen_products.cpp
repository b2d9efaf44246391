#include <Eigen/Core>
#include <type_traits>

#include "products.hpp"

namespace bench {

namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using MapOf = Eigen::Map<std::conditional_t<std::is_const_v<T>, const Matrix, Matrix>>;

class EigenProducts final : public ProductsEngine {
 public:
  EigenProducts(const ProductsProblem& problem, moxie::Executor& executor)
      : p_(problem), executor_(executor) {}

  void forward() override {
    executor_.run(p_.experts, [this](moxie::Index e, int) {
      of_hidden(p_.hidden_rows, e).noalias() = of_width(p_.x_rows, e) * first(p_.w1, e);
      of_width(p_.out_rows, e).noalias() = of_hidden(p_.hidden_rows, e) * second(p_.w2, e);
    });
  }
  void backward() override {
    executor_.run(p_.experts, [this](moxie::Index e, int) {
      of_hidden(p_.d_hidden_rows, e).noalias() =
          of_width(p_.dy_rows, e) * second(p_.w2, e).transpose();
      second(p_.dw2, e).noalias() +=
          of_hidden(p_.hidden_rows, e).transpose() * of_width(p_.dy_rows, e);
      first(p_.dw1, e).noalias() +=
          of_width(p_.x_rows, e).transpose() * of_hidden(p_.d_hidden_rows, e);
      of_width(p_.dx_rows, e).noalias() =
          of_hidden(p_.d_hidden_rows, e) * first(p_.w1, e).transpose();
    });
  }

 private:
  template <class T>
  MapOf<T> of_width(T* all, moxie::Index e) const {
    return {all + e * p_.rows * p_.width, p_.rows, p_.width};
  }
  template <class T>
  MapOf<T> of_hidden(T* all, moxie::Index e) const {
    return {all + e * p_.rows * p_.hidden, p_.rows, p_.hidden};
  }
  template <class T>
  MapOf<T> first(T* all, moxie::Index e) const {
    return {all + e * p_.width * p_.hidden, p_.width, p_.hidden};
  }
  template <class T>
  MapOf<T> second(T* all, moxie::Index e) const {
    return {all + e * p_.hidden * p_.width, p_.hidden, p_.width};
  }

  ProductsProblem p_;
  moxie::Executor& executor_;
};

}  // namespace

std::unique_ptr<ProductsEngine> make_eigen_products(const ProductsProblem& problem,
                                                    moxie::Executor& executor) {
  return std::make_unique<EigenProducts>(problem, executor);
}

}  // namespace bench
