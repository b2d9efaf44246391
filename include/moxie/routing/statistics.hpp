#pragma once

#include <cmath>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/core/strip.hpp"
#include "moxie/ops/marginal_error.hpp"
#include "moxie/routing/record.hpp"

namespace moxie {

/// How one MoE layer routed, over the passes that were added. Padding does not count.
struct RoutingStatistics {
  /// [E] assignments made, rerouted ones where they went; soft: combine's mass
  std::vector<double> selected;
  std::vector<double> kept;  ///< [E] of them, with a slot
  double tokens = 0;
  /// mean over tokens of the entropy of the clean probabilities, nats; soft: of combine by expert
  double gate_entropy = 0;
  /// mean over tokens with choices of (least score chosen - largest not chosen); the score is the
  /// plan, or the probability that selection saw, with its bias if there is one. Below 0 where
  /// better experts were not to be had: outside the best groups of experts, or with routes from
  /// outside. 0 where experts choose
  double margin = 0;
  /// of the router's plan, mean over groups and passes with one (ops/marginal_error.hpp); 0 without
  /// a plan
  double marginal_error = 0;
  double unrouted = 0;      ///< share of tokens that no expert took
  double regularizers = 0;  ///< weighted losses of the last pass, added up

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
/// What a token adds: 1, entropy, margin, whether it has a margin, whether no expert took it. Then what a group adds: the
/// marginal error, 1.
inline constexpr Index token_statistics = 7;
/// Tokens that one partial sum covers: part of the result.
inline constexpr Index statistics_chunk = 64;

/// log(p) for 2^-126 <= p <= 1, within 2e-7 of it or of 1, without a call, so that loops over it vectorise; 0 below.
MOXIE_HD MOXIE_INLINE float log_probability(float p) {
  const std::int32_t bits = math::detail::bits<std::int32_t>(p);
  const std::int32_t shifted =
      bits - 0x3f3504f3;  // sqrt(1/2): the fraction is in [sqrt(1/2), sqrt(2))
  const float exponent = static_cast<float>(shifted >> 23);
  const float m = math::detail::bits<float>((shifted & 0x007fffff) + 0x3f3504f3) - 1.0F;
  float s = 7.0376836292e-2F;
  s = s * m - 1.1514610310e-1F;
  s = s * m + 1.1676998740e-1F;
  s = s * m - 1.2420140846e-1F;
  s = s * m + 1.4249322787e-1F;
  s = s * m - 1.6668057665e-1F;
  s = s * m + 2.0000714765e-1F;
  s = s * m - 2.4999993993e-1F;
  s = s * m + 3.3333331174e-1F;
  const float log = m - 0.5F * m * m + s * m * m * m + exponent * 0.69314718F;
  return math::select(bits < 0x00800000, 0.0F, log);
}
MOXIE_HD MOXIE_INLINE double log_probability(double p) { return p > 0 ? math::log(p) : 0.0; }

template <class T, Index width>
using Lanes = T[static_cast<std::size_t>(width)];

/// to[s] = from[s] for s < n, else `rest`.
template <Index width, class T>
MOXIE_HD MOXIE_INLINE void load_filled(const T* from, Index n, T rest, T* to) {
  if (n >= width) {  // apart from the other case, which does not vectorise
    for (Index s = 0; s < width; ++s) to[s] = from[s];
    return;
  }
  for (Index s = 0; s < width; ++s) to[s] = rest;
  for (Index s = 0; s < n; ++s) to[s] = from[s];
}
/// Of numbers >= 0, which are divided by their sum first; nats.
template <Index width, class T>
MOXIE_HD MOXIE_INLINE T entropy_by(const T* p, Index n) {
  Lanes<T, width> sums = {};
  Lanes<T, width> inners = {};
  for (Index j = 0; j < n; j += width) {
    Lanes<T, width> v;
    load_filled<width>(p + j, n - j, T(0), v);
    for (Index s = 0; s < width; ++s) {
      sums[s] += v[s];
      inners[s] += v[s] * log_probability(v[s]);
    }
  }
  for (Index half = width / 2; half > 0; half /= 2)
    for (Index s = 0; s < half; ++s) {
      sums[s] += sums[s + half];
      inners[s] += inners[s + half];
    }
  if (!(sums[0] > 0)) return 0;
  return math::log(sums[0]) - inners[0] / sums[0];
}
template <class T>
MOXIE_HD MOXIE_INLINE T entropy_of(const T* p, Index n) {
  return n <= half_strip ? entropy_by<half_strip>(p, n) : entropy_by<strip>(p, n);
}

/// sums[chunk, :] of a chunk of tokens: [E] selected, [E] kept, then those of the token.
template <Backend B>
struct SparseStatistics {
  SparseRouting<B> r;
  Matrix<B> sums;

  MOXIE_HD MOXIE_INLINE void operator()(Index chunk) const {
    using T = typename B::Scalar;
    const Index experts = r.shape.experts;
    T* own = sums.row(chunk);
    for (Index c = 0; c < sums.cols; ++c) own[c] = 0;
    T tokens = 0;
    T entropy = 0;
    T unrouted = 0;
    Margin margin{};
    const Index last = (chunk + 1) * statistics_chunk;
    for (Index t = chunk * statistics_chunk; t < last && t < r.shape.tokens; ++t) {
      if (r.mask && r.mask[t] == 0) continue;
      bool routed = false;
      for (Index a = r.begin(t); a < r.end(t); ++a) {
        const Index e = r.choice.data[a];
        if (e < 0) continue;
        own[e] += 1;
        if (r.row.data[a] < 0) continue;
        own[experts + e] += 1;
        routed = true;
      }
      tokens += 1;
      entropy += entropy_of(r.probs.row(t), experts);
      unrouted += routed ? T(0) : T(1);
      if (!r.first) add_margin(t, margin);
    }
    T* token = own + 2 * experts;
    token[0] = tokens;
    token[1] = entropy;
    token[2] = margin.sum;
    token[3] = margin.count;
    token[4] = unrouted;
  }

 private:
  struct Margin {
    typename B::Scalar sum, count;
  };
  MOXIE_HD MOXIE_INLINE void add_margin(Index t, Margin& margin) const {
    using T = typename B::Scalar;
    const T* score = r.plan ? r.plan.row(t) : r.noisy_probs.row(t);
    const T* bias = r.bias ? r.bias.data : nullptr;
    T least = -math::lowest<T>();
    Index chosen = 0;
    for (Index k = 0; k < r.choice.cols; ++k) {
      const Index e = r.choice(t, k);
      if (e < 0) continue;
      const T own = bias ? score[e] + bias[e] : score[e];
      least = own < least ? own : least;
      ++chosen;
    }
    if (chosen == 0 || chosen == r.shape.experts) return;
    margin.sum += least - (r.shape.experts <= half_strip ? best_other<half_strip>(t, score, bias)
                                                         : best_other<strip>(t, score, bias));
    margin.count += 1;
  }
  /// A strip at a time without the chosen ones: a comparison with each choice for each expert would not vectorise.
  template <Index width>
  MOXIE_HD MOXIE_INLINE typename B::Scalar best_other(Index t, const typename B::Scalar* score,
                                                      const typename B::Scalar* bias) const {
    using T = typename B::Scalar;
    Lanes<T, width> best;
    for (Index i = 0; i < width; ++i) best[i] = math::lowest<T>();
    for (Index e = 0; e < r.shape.experts; e += width) {
      Lanes<T, width> others;
      const Index here = r.shape.experts - e < width ? r.shape.experts - e : width;
      load_filled<width>(score + e, here, math::lowest<T>(), others);
      if (bias)
        for (Index i = 0; i < here; ++i) others[i] += bias[e + i];
      for (Index k = 0; k < r.choice.cols; ++k) {
        const Index mine = r.choice(t, k) - e;
        if (mine >= 0 && mine < here) others[mine] = math::lowest<T>();
      }
      for (Index i = 0; i < width; ++i) best[i] = math::maximum(best[i], others[i]);
    }
    for (Index half = width / 2; half > 0; half /= 2)
      for (Index i = 0; i < half; ++i) best[i] = math::maximum(best[i], best[i + half]);
    return best[0];
  }
};
template <Backend B>
struct SoftStatistics {
  SoftRouting<B> r;
  Matrix<B> sums;

  MOXIE_HD MOXIE_INLINE void operator()(Index chunk) const {
    using T = typename B::Scalar;
    const Index experts = r.shape.experts;
    T* own = sums.row(chunk);
    for (Index c = 0; c < sums.cols; ++c) own[c] = 0;
    const Index last = (chunk + 1) * statistics_chunk;
    for (Index t = chunk * statistics_chunk; t < last && t < r.shape.tokens; ++t) {
      if (r.mask && r.mask[t] == 0) continue;
      for (Index e = 0; e < experts; ++e) {
        own[e] += r.probs(t, e);
        own[experts + e] += r.probs(t, e);
      }
      own[2 * experts] += 1;
      own[2 * experts + 1] += entropy_of(r.probs.row(t), experts);
    }
  }
};
template <Backend B>
struct GroupStatistics {
  static constexpr bool one_level = true;
  ConstVector<B> error;
  Vector<B> of_group;  // {sum, count}

  MOXIE_HD void operator()(Index) const {
    for (Index g = 0; g < error.size; ++g) of_group[0] += error[g];
    of_group[1] += static_cast<typename B::Scalar>(error.size);
  }
};
/// total[c] += sums[0, c] + sums[1, c] + ...
template <Backend B>
struct AddStatistics {
  static constexpr bool one_level = true;
  ConstMatrix<B> sums;
  Vector<B> total;

  MOXIE_HD MOXIE_INLINE void operator()(Index c) const {
    typename B::Scalar sum = 0;
    for (Index chunk = 0; chunk < sums.rows; ++chunk) sum += sums(chunk, c);
    total[c] += sum;
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
/// The layers are told apart by their order since begin_pass or reset: a pass visited without either counts as further
/// layers behind those before. What is not visited costs nothing. Counts are exact up to 2^24 in float. Takes memory at
/// the first visit of a layer, and of a larger pass.
template <Backend B>
class RoutingTelemetry final : public RoutingVisitor<B> {
  using T = typename B::Scalar;

 public:
  explicit RoutingTelemetry(B& backend) : backend_(&backend) {}

  /// Before the visit of a pass: its MoE layers are counted from the first again.
  void begin_pass() noexcept { next_ = 0; }
  /// @throws config_error if the layer at this place had another number of experts before
  void sparse(const SparseRouting<B>& r) override {
    const Matrix<B> sums = begin(r.shape);
    backend_->for_each(sums.rows, detail::SparseStatistics<B>{r, sums}, 1);
    add(sums);
    if (r.planned()) add_marginal_error(r);
  }
  /// @throws config_error as `sparse`
  void soft(const SoftRouting<B>& r) override {
    const Matrix<B> sums = begin(r.shape);
    backend_->for_each(sums.rows, detail::SoftStatistics<B>{r, sums}, 1);
    add(sums);
  }
  void losses(std::span<const std::string_view> /*names*/, ConstVector<B> values) override {
    if (next_ == 0) return;
    Layer& layer = layers_[next_ - 1];
    if (layer.losses.view().size != values.size)
      layer.losses = Buffer<B, T>(*backend_, values.size);
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
      s.marginal_error = per(token[5], token[6]);
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
    if (const Index had = layers_[next_].experts; had != s.experts)
      throw_config("moxie::RoutingTelemetry: MoE layer ", next_, " of the pass has ", s.experts,
                   " experts, expected ", had,
                   " as before (each model needs telemetry of its own)");
    const Index chunks = (s.tokens + detail::statistics_chunk - 1) / detail::statistics_chunk;
    // The same memory serves the marginals of a plan, afterwards.
    const Index marginals = s.groups() * (s.experts + 1) + s.tokens;
    const Index numbers = chunks * columns(s) > marginals ? chunks * columns(s) : marginals;
    const std::size_t bytes = static_cast<std::size_t>(numbers) * sizeof(T);
    if (memory_.bytes() < bytes) {
      backend_->synchronize();  // what was enqueued may still use the memory
      memory_ = Memory<B>(*backend_, bytes);
    }
    return {reinterpret_cast<T*>(memory_.data()), chunks, columns(s)};
  }
  void add(const Matrix<B>& sums) {
    backend_->for_each(sums.cols, detail::AddStatistics<B>{sums, layers_[next_++].sums.view()});
  }
  void add_marginal_error(const SparseRouting<B>& r) {
    const Index groups = r.shape.groups();
    T* const memory = reinterpret_cast<T*>(memory_.data());
    const Matrix<B> load(memory, groups, r.shape.experts);
    const Vector<B> error(memory + load.size(), groups);
    const Vector<B> gap(error.data + error.size, r.shape.tokens);
    marginal_error(*backend_, ConstMatrix<B>(r.plan), r.mask, r.shape.group, load, gap, error);
    const Vector<B> total = layers_[next_ - 1].sums.view();
    backend_->for_each(1, detail::GroupStatistics<B>{error, total.middle(total.size - 2, 2)});
  }
  static Index columns(const RoutingShape& s) { return 2 * s.experts + detail::token_statistics; }
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
