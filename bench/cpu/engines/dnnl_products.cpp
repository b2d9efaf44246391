#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include "moxie/core/error.hpp"
#include "products.hpp"

namespace bench {

namespace {

class DnnlProducts final : public ProductsEngine {
 public:
  DnnlProducts(const ProductsProblem& problem, moxie::Executor& executor)
      : p_(problem), executor_(executor) {}

  void forward() override {
    of_each_expert([this](const Expert& e) {
      product('N', 'N', p_.rows, p_.hidden, p_.width, e.x, e.w1, 0, e.hidden);
      product('N', 'N', p_.rows, p_.width, p_.hidden, e.hidden, e.w2, 0, e.out);
    });
  }
  void backward() override {
    of_each_expert([this](const Expert& e) {
      product('N', 'T', p_.rows, p_.hidden, p_.width, e.dy, e.w2, 0, e.d_hidden);
      product('T', 'N', p_.hidden, p_.width, p_.rows, e.hidden, e.dy, 1, e.dw2);
      product('T', 'N', p_.width, p_.hidden, p_.rows, e.x, e.d_hidden, 1, e.dw1);
      product('N', 'T', p_.rows, p_.width, p_.hidden, e.d_hidden, e.w1, 0, e.dx);
    });
  }

 private:
  struct Expert {
    const float *x, *dy, *w1, *w2;
    float *hidden, *out, *d_hidden, *dx, *dw1, *dw2;
  };
  template <class F>
  void of_each_expert(const F& f) {
    executor_.run(p_.experts, [&](moxie::Index i, int) {
      omp_set_num_threads(1);  // of what this thread starts: the experts are what runs side by side
      const moxie::Index wide = i * p_.rows * p_.width;
      const moxie::Index deep = i * p_.rows * p_.hidden;
      const moxie::Index weights = i * p_.width * p_.hidden;
      f(Expert{p_.x_rows + wide, p_.dy_rows + wide, p_.w1 + weights, p_.w2 + weights,
               p_.hidden_rows + deep, p_.out_rows + wide, p_.d_hidden_rows + deep,
               p_.dx_rows + wide, p_.dw1 + weights, p_.dw2 + weights});
    });
  }
  /// c [m, n] = op(a) op(b) + beta c, all packed row by row.
  static void product(char op_a, char op_b, moxie::Index m, moxie::Index n, moxie::Index k,
                      const float* a, const float* b, float beta, float* c) {
    const dnnl_status_t status = dnnl_sgemm(op_a, op_b, m, n, k, 1, a, op_a == 'N' ? k : m, b,
                                            op_b == 'N' ? n : k, beta, c, n);
    if (status != dnnl_success)
      moxie::throw_numeric("dnnl_sgemm: status ", static_cast<int>(status));
  }

  ProductsProblem p_;
  moxie::Executor& executor_;
};

}  // namespace

std::unique_ptr<ProductsEngine> make_dnnl_products(const ProductsProblem& problem,
                                                   moxie::Executor& executor) {
  return std::make_unique<DnnlProducts>(problem, executor);
}

}  // namespace bench
