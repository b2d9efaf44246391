#include "plain_routing.hpp"

namespace bench {

namespace {

float dot(const float* a, const float* b, Index n) {
  float sum = 0;
  for (Index i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}
/// y += s x
void add(float s, const float* x, float* y, Index n) {
  for (Index i = 0; i < n; ++i) y[i] += s * x[i];
}

class NaiveLoop final : public LayerLoop {
 public:
  NaiveLoop(const LoopProblem& problem, moxie::Executor& executor)
      : p_(problem),
        executor_(executor),
        routing_(problem),
        pre_(at(p_.tokens * p_.choices * p_.hidden)),
        act_(pre_.size()),
        d_pre_(pre_.size()),
        out_(at(p_.tokens * p_.choices * p_.width)) {
    gradients = {std::vector<float>(at(p_.width * p_.experts)),
                 std::vector<float>(at(p_.experts * p_.width * p_.hidden)),
                 std::vector<float>(at(p_.experts * p_.hidden)),
                 std::vector<float>(at(p_.experts * p_.hidden * p_.width)),
                 std::vector<float>(at(p_.experts * p_.width))};
  }

  void forward(float* y) override {
    for_each_token(executor_, p_.tokens, [this](Index t) {
      float* logit = &routing_.probs[at(t * p_.experts)];
      for (Index e = 0; e < p_.experts; ++e) logit[e] = 0;
      for (Index d = 0; d < p_.width; ++d)
        add(x(t)[d], p_.gate + d * p_.experts, logit, p_.experts);
    });
    routing_.route(p_, executor_);
    for_each_token(executor_, p_.tokens, [this, y](Index t) {
      float* to = y + t * p_.width;
      for (Index i = 0; i < p_.width; ++i) to[i] = 0;
      for (Index a = t * p_.choices; a < (t + 1) * p_.choices; ++a) {
        if (routing_.row[at(a)] < 0) continue;
        expert(t, a);
        add(routing_.weight[at(a)], out(a), to, p_.width);
      }
    });
  }
  void backward(const float* dy, float* dx) override {
    for_each_token(executor_, p_.tokens, [this, dy, dx](Index t) {
      const float* from = dy + t * p_.width;
      float* to = dx + t * p_.width;
      for (Index i = 0; i < p_.width; ++i) to[i] = 0;
      for (Index a = t * p_.choices; a < (t + 1) * p_.choices; ++a)
        if (routing_.row[at(a)] >= 0) expert_backward(a, from, to);
    });
    routing_.backward(p_, executor_);
    for_each_token(executor_, p_.tokens, [this, dx](Index t) {
      const float* d_logit = &routing_.d_logits[at(t * p_.experts)];
      for (Index d = 0; d < p_.width; ++d)
        dx[t * p_.width + d] += dot(p_.gate + d * p_.experts, d_logit, p_.experts);
    });
    executor_.run(p_.experts, [this, dy](Index e, int) { weights_backward(e, dy); });
    for_each_column_slice(executor_, p_.width, [this](Index begin, Index n) {
      float* gate = &gradients.gate[at(begin * p_.experts)];
      for (Index i = 0; i < n * p_.experts; ++i) gate[i] = 0;
      for (Index t = 0; t < p_.tokens; ++t)
        for (Index i = 0; i < n; ++i)
          add(x(t)[begin + i], &routing_.d_logits[at(t * p_.experts)], gate + i * p_.experts,
              p_.experts);
    });
  }

 private:
  const float* x(Index t) const { return p_.x + t * p_.width; }
  float* pre(Index a) { return &pre_[at(a * p_.hidden)]; }
  float* act(Index a) { return &act_[at(a * p_.hidden)]; }
  float* d_pre(Index a) { return &d_pre_[at(a * p_.hidden)]; }
  float* out(Index a) { return &out_[at(a * p_.width)]; }

  void expert(Index t, Index a) {
    const Index e = routing_.expert[at(a)];
    for (Index h = 0; h < p_.hidden; ++h) pre(a)[h] = p_.bias_0[e * p_.hidden + h];
    for (Index d = 0; d < p_.width; ++d)
      add(x(t)[d], p_.kernel_0 + (e * p_.width + d) * p_.hidden, pre(a), p_.hidden);
    gelu(pre(a), act(a), p_.hidden);
    for (Index o = 0; o < p_.width; ++o) out(a)[o] = p_.bias_1[e * p_.width + o];
    for (Index h = 0; h < p_.hidden; ++h)
      add(act(a)[h], p_.kernel_1 + (e * p_.hidden + h) * p_.width, out(a), p_.width);
  }
  void expert_backward(Index a, const float* dy, float* dx) {
    const Index e = routing_.expert[at(a)];
    routing_.d_weight[at(a)] = dot(dy, out(a), p_.width);
    for (Index h = 0; h < p_.hidden; ++h)
      d_pre(a)[h] =
          routing_.weight[at(a)] * dot(dy, p_.kernel_1 + (e * p_.hidden + h) * p_.width, p_.width);
    gelu_backward(pre(a), d_pre(a), p_.hidden);
    for (Index d = 0; d < p_.width; ++d)
      dx[d] += dot(p_.kernel_0 + (e * p_.width + d) * p_.hidden, d_pre(a), p_.hidden);
  }
  void weights_backward(Index e, const float* dy) {
    const auto zeroed = [e](std::vector<float>& all, Index n) {
      float* own = &all[at(e * n)];
      for (Index i = 0; i < n; ++i) own[i] = 0;
      return own;
    };
    float* kernel_0 = zeroed(gradients.kernel_0, p_.width * p_.hidden);
    float* bias_0 = zeroed(gradients.bias_0, p_.hidden);
    float* kernel_1 = zeroed(gradients.kernel_1, p_.hidden * p_.width);
    float* bias_1 = zeroed(gradients.bias_1, p_.width);
    for (Index r = routing_.first[at(e)]; r < routing_.first[at(e + 1)]; ++r) {
      const Index a = routing_.taken[at(r)];
      const Index t = a / p_.choices;
      const float w = routing_.weight[at(a)];
      for (Index d = 0; d < p_.width; ++d)
        add(x(t)[d], d_pre(a), kernel_0 + d * p_.hidden, p_.hidden);
      add(1, d_pre(a), bias_0, p_.hidden);
      for (Index h = 0; h < p_.hidden; ++h)
        add(w * act(a)[h], dy + t * p_.width, kernel_1 + h * p_.width, p_.width);
      add(w, dy + t * p_.width, bias_1, p_.width);
    }
  }

  LoopProblem p_;
  moxie::Executor& executor_;
  PlainRouting routing_;
  std::vector<float> pre_, act_, d_pre_;  // [T * K, H]
  std::vector<float> out_;                // [T * K, D]
};

}  // namespace

std::unique_ptr<LayerLoop> make_naive_loop(const LoopProblem& problem, moxie::Executor& executor) {
  return std::make_unique<NaiveLoop>(problem, executor);
}

}  // namespace bench
