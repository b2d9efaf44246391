#include <Eigen/Core>

#include "plain_routing.hpp"

namespace bench {

namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Map = Eigen::Map<Rows>;
using ConstMap = Eigen::Map<const Rows>;

class EigenLoop final : public LayerLoop {
 public:
  EigenLoop(const LoopProblem& problem, moxie::Executor& executor)
      : p_(problem), executor_(executor), routing_(problem) {
    const Index rows = p_.tokens * p_.choices;
    for (Rows* m : {&in_, &out_, &d_in_, &dy_}) m->resize(rows, p_.width);
    for (Rows* m : {&pre_, &act_, &d_pre_}) m->resize(rows, p_.hidden);
    gradients = {std::vector<float>(at(p_.width * p_.experts)),
                 std::vector<float>(at(p_.experts * p_.width * p_.hidden)),
                 std::vector<float>(at(p_.experts * p_.hidden)),
                 std::vector<float>(at(p_.experts * p_.hidden * p_.width)),
                 std::vector<float>(at(p_.experts * p_.width))};
  }

  void forward(float* y) override {
    for_each_slice([this](Index begin, Index n) {
      Map(&routing_.probs[at(begin * p_.experts)], n, p_.experts).noalias() =
          ConstMap(p_.x + begin * p_.width, n, p_.width) * ConstMap(p_.gate, p_.width, p_.experts);
    });
    routing_.route(p_, executor_);
    executor_.run(p_.experts, [this](Index e, int) { expert(e); });
    for_each_token(executor_, p_.tokens, [this, y](Index t) {
      Map to(y + t * p_.width, 1, p_.width);
      to.setZero();
      for (Index a = t * p_.choices; a < (t + 1) * p_.choices; ++a)
        if (const Index r = routing_.row[at(a)]; r >= 0) to += routing_.weight[at(a)] * out_.row(r);
    });
  }
  void backward(const float* dy, float* dx) override {
    executor_.run(p_.experts, [this, dy](Index e, int) { expert_backward(e, dy); });
    routing_.backward(p_, executor_);
    for_each_slice([this, dx](Index begin, Index n) {
      Map(dx + begin * p_.width, n, p_.width).noalias() =
          ConstMap(&routing_.d_logits[at(begin * p_.experts)], n, p_.experts) *
          ConstMap(p_.gate, p_.width, p_.experts).transpose();
    });
    for_each_token(executor_, p_.tokens, [this, dx](Index t) {
      Map to(dx + t * p_.width, 1, p_.width);
      for (Index a = t * p_.choices; a < (t + 1) * p_.choices; ++a)
        if (const Index r = routing_.row[at(a)]; r >= 0) to += d_in_.row(r);
    });
    for_each_column_slice(executor_, p_.width, [this](Index begin, Index n) {
      Map(&gradients.gate[at(begin * p_.experts)], n, p_.experts).noalias() =
          ConstMap(p_.x, p_.tokens, p_.width).middleCols(begin, n).transpose() *
          ConstMap(routing_.d_logits.data(), p_.tokens, p_.experts);
    });
  }

 private:
  /// f(first token, tokens), in slices that suit a product.
  template <class F>
  void for_each_slice(const F& f) {
    constexpr Index slice = 256;
    executor_.run((p_.tokens + slice - 1) / slice, [&](Index task, int) {
      const Index begin = task * slice;
      f(begin, p_.tokens - begin < slice ? p_.tokens - begin : slice);
    });
  }
  ConstMap kernel_0(Index e) const {
    return {p_.kernel_0 + e * p_.width * p_.hidden, p_.width, p_.hidden};
  }
  ConstMap kernel_1(Index e) const {
    return {p_.kernel_1 + e * p_.width * p_.hidden, p_.hidden, p_.width};
  }
  void expert(Index e) {
    const Index first = routing_.first[at(e)];
    const Index n = routing_.first[at(e + 1)] - first;
    const Index* taken = routing_.taken.data() + first;
    if (n == 0) return;
    for (Index i = 0; i < n; ++i)
      in_.row(first + i) = ConstMap(p_.x + taken[i] / p_.choices * p_.width, 1, p_.width);
    auto pre = pre_.middleRows(first, n);
    pre.noalias() = in_.middleRows(first, n) * kernel_0(e);
    pre.rowwise() += Eigen::Map<const Eigen::RowVectorXf>(p_.bias_0 + e * p_.hidden, p_.hidden);
    gelu(pre_.row(first).data(), act_.row(first).data(), n * p_.hidden);
    auto out = out_.middleRows(first, n);
    out.noalias() = act_.middleRows(first, n) * kernel_1(e);
    out.rowwise() += Eigen::Map<const Eigen::RowVectorXf>(p_.bias_1 + e * p_.width, p_.width);
  }
  void expert_backward(Index e, const float* dy) {
    const Index first = routing_.first[at(e)];
    const Index n = routing_.first[at(e + 1)] - first;
    const Index* taken = routing_.taken.data() + first;
    Map d_kernel_0(&gradients.kernel_0[at(e * p_.width * p_.hidden)], p_.width, p_.hidden);
    Map d_kernel_1(&gradients.kernel_1[at(e * p_.width * p_.hidden)], p_.hidden, p_.width);
    Map d_bias_0(&gradients.bias_0[at(e * p_.hidden)], 1, p_.hidden);
    Map d_bias_1(&gradients.bias_1[at(e * p_.width)], 1, p_.width);
    if (n == 0) {
      d_kernel_0.setZero();
      d_kernel_1.setZero();
      d_bias_0.setZero();
      d_bias_1.setZero();
      return;
    }
    for (Index i = 0; i < n; ++i) {
      const Index a = taken[i];
      const ConstMap from(dy + a / p_.choices * p_.width, 1, p_.width);
      routing_.d_weight[at(a)] = from.row(0).dot(out_.row(first + i));
      dy_.row(first + i) = routing_.weight[at(a)] * from;
    }
    const auto d_out = dy_.middleRows(first, n);
    auto d_pre = d_pre_.middleRows(first, n);
    d_pre.noalias() = d_out * kernel_1(e).transpose();
    d_kernel_1.noalias() = act_.middleRows(first, n).transpose() * d_out;
    d_bias_1 = d_out.colwise().sum();
    gelu_backward(pre_.row(first).data(), d_pre_.row(first).data(), n * p_.hidden);
    d_kernel_0.noalias() = in_.middleRows(first, n).transpose() * d_pre;
    d_bias_0 = d_pre.colwise().sum();
    d_in_.middleRows(first, n).noalias() = d_pre * kernel_0(e).transpose();
  }

  LoopProblem p_;
  moxie::Executor& executor_;
  PlainRouting routing_;
  Rows in_, out_, d_in_, dy_;  // [rows, D], of each expert together
  Rows pre_, act_, d_pre_;     // [rows, H]
};

}  // namespace

std::unique_ptr<LayerLoop> make_eigen_loop(const LoopProblem& problem, moxie::Executor& executor) {
  return std::make_unique<EigenLoop>(problem, executor);
}

}  // namespace bench
