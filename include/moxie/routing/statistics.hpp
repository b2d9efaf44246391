#pragma once

#include <cmath>
#include <vector>

#include "moxie/core/memory.hpp"
#include "moxie/core/strip.hpp"
#include "moxie/routing/record.hpp"

namespace moxie {

/// How one MoE layer routed, over the passes that were added. Padding does not count.
struct RoutingStatistics {
  std::vector<double> selected;  ///< [E] assignments made; soft: combine's mass
  std::vector<double> kept;      ///< [E] of them, with a slot
  double tokens = 0;
  double gate_entropy = 0;   ///< mean over tokens of the entropy of the clean probabilities, nats; soft: of combine
                             ///< by expert
  double margin = 0;         ///< mean over tokens with choices of (least score chosen - largest not chosen); the
                             ///< score is the plan or the probability that selection saw. 0 where experts choose
  double unrouted = 0;       ///< share of tokens that no expert took
  double regularizers = 0;   ///< weighted losses of the last pass, added up

  Index experts() const noexcept { return static_cast<Index>(selected.size()); }
  /// Standard deviation (population) of `selected` over its mean; 0 at balance.
  double coefficient_of_variation() const {
    const double m = mean();
    double sum = 0;
    for (const double n : selected) sum += (n - m) * (n - m);
    return m > 0 ? std::sqrt(sum / static_cast<double>(selected.size())) / m : 0;
  }
  /// MaxVio: the largest load over the mean, less 1.   Source: arXiv 2408.15664.
  double max_violation() const {
    const double m = mean();
    double most = 0;
    for (const double n : selected) most = n > most ? n : most;
    return m > 0 ? most / m - 1 : 0;
  }
  /// Experts that nothing was assigned to.
  Index dead_experts() const {
    Index dead = 0;
    for (const double n : selected) dead += n > 0 ? 0 : 1;
    return dead;
  }
  /// Share of the assignments that got no slot.
  double drop_rate() const {
    const double all = sum(selected);
    return all > 0 ? dropped() / all : 0;
  }
  /// Assignments that got no slot.
  double dropped() const { return sum(selected) - sum(kept); }
  /// Mean number of experts that took a token.
  double experts_per_token() const { return tokens > 0 ? sum(kept) / tokens : 0; }

 private:
  static double sum(const std::vector<double>& v) {
    double s = 0;
    for (const double x : v) s += x;
    return s;
  }
  double mean() const {
    return selected.empty() ? 0 : sum(selected) / static_cast<double>(selected.size());
  }
};

namespace detail {
/// One row a token: {counts, entropy, margin, has a margin, unrouted}.
inline constexpr Index token_statistics = 5;

template <class T>
MOXIE_HD MOXIE_INLINE T entropy_of(const T* p, Index n) {
  const T sum = strip_sum<T>(n, [=](Index j) { return p[j]; });
  if (!(sum > 0)) return 0;
  const T inner = strip_sum<T>(n, [=](Index j) { return p[j] > 0 ? p[j] * math::log(p[j]) : T(0); });
  return math::log(sum) - inner / sum;
}

template <Backend B>
struct SparseTokenStatistics {
  SparseRouting<B> r;
  Matrix<B> out;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    T* o = out.row(t);
    for (Index i = 0; i < token_statistics; ++i) o[i] = 0;
    if (r.mask && r.mask[t] == 0) return;
    o[0] = 1;
    o[1] = entropy_of(r.probs.row(t), r.probs.cols);
    Index kept = 0;
    for (Index a = r.begin(t); a < r.end(t); ++a) kept += r.row.data[a] >= 0 ? 1 : 0;
    o[4] = kept == 0 ? T(1) : T(0);
    if (!r.first) margin(t, o);
  }
  MOXIE_HD void margin(Index t, typename B::Scalar* o) const {
    const auto* score = r.plan ? r.plan.row(t) : r.noisy_probs.row(t);
    Index least = -1;
    Index next = -1;
    for (Index e = 0; e < r.shape.experts; ++e) {
      bool chosen = false;
      for (Index k = 0; k < r.choice.cols; ++k) chosen = chosen || r.choice(t, k) == e;
      if (chosen && (least < 0 || score[e] < score[least])) least = e;
      if (!chosen && (next < 0 || score[e] > score[next])) next = e;
    }
    if (least < 0 || next < 0) return;
    o[2] = score[least] - score[next];
    o[3] = 1;
  }
};
template <Backend B>
struct SoftTokenStatistics {
  SoftRouting<B> r;
  Matrix<B> out;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    T* o = out.row(t);
    for (Index i = 0; i < token_statistics; ++i) o[i] = 0;
    if (r.mask && r.mask[t] == 0) return;
    o[0] = 1;
    o[1] = entropy_of(r.probs.row(t), r.probs.cols);
  }
};

/// Columns: [E] selected, [E] kept, then those of the token.
template <Backend B>
struct SparseStatistic {
  static constexpr bool one_level = true;
  SparseRouting<B> r;
  ConstMatrix<B> of_token;

  MOXIE_HD typename B::Scalar operator()(Index t, Index c) const {
    const Index experts = r.shape.experts;
    if (c >= 2 * experts) return of_token(t, c - 2 * experts);
    const Index e = c % experts;
    int count = 0;
    for (Index a = r.begin(t); a < r.end(t); ++a)
      count += r.choice.data[a] == e && (c < experts || r.row.data[a] >= 0) ? 1 : 0;
    return static_cast<typename B::Scalar>(count);
  }
};
template <Backend B>
struct SoftStatistic {
  static constexpr bool one_level = true;
  SoftRouting<B> r;
  ConstMatrix<B> of_token;

  MOXIE_HD typename B::Scalar operator()(Index t, Index c) const {
    const Index experts = r.shape.experts;
    return c >= 2 * experts ? of_token(t, c - 2 * experts) : r.probs(t, c % experts);
  }
};
}  // namespace detail

/// Adds up the routing statistics of every MoE layer of a model over passes, in the backend's memory:
///
///   RoutingTelemetry<B> telemetry{backend};
///   telemetry.begin_pass();
///   model.visit_routing(tape, telemetry);      // enqueues; nothing waits
///   for (const RoutingStatistics& layer : telemetry.read()) ...
///
/// What is not visited costs nothing. Counts are exact up to 2^24 in float. Takes memory at the first visit of a layer, and of a larger pass.
template <Backend B>
class RoutingTelemetry final : public RoutingVisitor<B> {
  using T = typename B::Scalar;

 public:
  explicit RoutingTelemetry(B& backend) : backend_(&backend) {}

  /// Before the visit of a pass: its MoE layers are counted from the first again.
  void begin_pass() noexcept { next_ = 0; }
  void sparse(const SparseRouting<B>& r) override {
    const Matrix<B> of_token = begin(r.shape);
    backend_->for_each(r.shape.tokens, detail::SparseTokenStatistics<B>{r, of_token});
    add(r.shape, detail::SparseStatistic<B>{r, of_token});
  }
  void soft(const SoftRouting<B>& r) override {
    const Matrix<B> of_token = begin(r.shape);
    backend_->for_each(r.shape.tokens, detail::SoftTokenStatistics<B>{r, of_token});
    add(r.shape, detail::SoftStatistic<B>{r, of_token});
  }
  void losses(std::span<const std::string_view> /*names*/, ConstVector<B> values) override {
    if (next_ == 0) return;
    Layer& layer = layers_[next_ - 1];
    if (layer.losses.view().size != values.size) layer.losses = Buffer<B, T>(*backend_, values.size);
    const auto bytes = static_cast<std::size_t>(values.size) * sizeof(T);
    if (bytes > 0) backend_->copy(layer.losses.view().data, values.data, bytes);
  }
  /// Forgets what was added; keeps the memory.
  void reset() {
    for (const Layer& layer : layers_) backend_->fill(layer.sums.view(), T(0));
    next_ = 0;
  }

  /// One entry a MoE layer, in order. Blocks.
  std::vector<RoutingStatistics> read() const {
    std::vector<RoutingStatistics> out;
    for (const Layer& layer : layers_) {
      const std::vector<double> sums = host(layer.sums.view());
      RoutingStatistics s;
      const auto at = sums.begin();
      const Index e = layer.experts;
      s.selected.assign(at, at + e);
      s.kept.assign(at + e, at + 2 * e);
      const auto token = at + 2 * e;
      s.tokens = token[0];
      const auto per = [](double total, double n) { return n > 0 ? total / n : 0; };
      s.gate_entropy = per(token[1], token[0]);
      s.margin = per(token[2], token[3]);
      s.unrouted = per(token[4], token[0]);
      for (const double loss : host(layer.losses.view())) s.regularizers += loss;
      out.push_back(std::move(s));
    }
    return out;
  }

 private:
  struct Layer {
    Index experts = 0;
    Buffer<B, T> sums, losses;
  };

  Matrix<B> begin(const RoutingShape& s) {
    if (next_ == layers_.size()) {
      layers_.emplace_back();
      layers_.back().experts = s.experts;
      layers_.back().sums = Buffer<B, T>(*backend_, columns(s));
    }
    const std::size_t tokens = token_bytes(s);
    const std::size_t bytes = tokens + backend_->column_sums_bytes(s.tokens, columns(s));
    if (memory_.bytes() < bytes) {
      backend_->synchronize();  // what was enqueued may still use the memory
      memory_ = Memory<B>(*backend_, bytes);
    }
    return {reinterpret_cast<T*>(memory_.data()), s.tokens, detail::token_statistics};
  }
  template <class F>
  void add(const RoutingShape& s, const F& statistic) {
    const std::size_t used = token_bytes(s);
    const Scratch<B> scratch{memory_.data() + used, static_cast<Index>(memory_.bytes() - used)};
    backend_->column_sums(s.tokens, columns(s), statistic, layers_[next_++].sums.view(), scratch);
  }
  static Index columns(const RoutingShape& s) { return 2 * s.experts + detail::token_statistics; }
  static std::size_t token_bytes(const RoutingShape& s) {
    const auto n = static_cast<std::size_t>(s.tokens * detail::token_statistics) * sizeof(T);
    return (n + 255) / 256 * 256;
  }
  std::vector<double> host(VectorView<T, typename B::Space> v) const {
    std::vector<T> own(static_cast<std::size_t>(v.size));
    if (v.size > 0) backend_->copy_to_host(own.data(), v.data, own.size() * sizeof(T));
    return {own.begin(), own.end()};
  }

  B* backend_;
  std::vector<Layer> layers_;
  std::size_t next_ = 0;
  Memory<B> memory_;
};

}  // namespace moxie
