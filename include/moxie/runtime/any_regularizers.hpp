#pragma once

#include <array>
#include <concepts>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "moxie/core/math.hpp"
#include "moxie/regularizer/global_entropy.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/local_entropy.hpp"
#include "moxie/regularizer/mutual_information.hpp"
#include "moxie/regularizer/noisy_load.hpp"
#include "moxie/regularizer/pairwise_consistency.hpp"
#include "moxie/regularizer/pairwise_jsd.hpp"
#include "moxie/regularizer/pairwise_l2.hpp"
#include "moxie/regularizer/pairwise_top_k_jsd.hpp"
#include "moxie/regularizer/router_z.hpp"
#include "moxie/regularizer/switch_balance.hpp"
#include "moxie/regularizer/threshold_entropy.hpp"
#include "moxie/regularizer/top_k_balance.hpp"
#include "moxie/regularizer/tutel_importance.hpp"
#include "moxie/regularizer/tutel_load.hpp"
#include "moxie/regularizer/with_decay.hpp"
#include "moxie/runtime/unknown_name.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct Total {  // out[0] = sum of values
  static constexpr bool one_level = true;
  ConstVector<B> values;
  Vector<B> out;

  MOXIE_HD void operator()(Index) const {
    typename B::Scalar sum = 0;
    for (Index i = 0; i < values.size; ++i) sum += values[i];
    out[0] = sum;
  }
};

/// A regularizer of any type. `scale` multiplies its weight.
template <Backend B, class Routing>
class RegularizerPart {
 public:
  RegularizerPart() = default;
  RegularizerPart(const RegularizerPart&) = delete;
  RegularizerPart& operator=(const RegularizerPart&) = delete;
  virtual ~RegularizerPart() = default;

  virtual double weight() const = 0;
  virtual Index sums(const RoutingShape& s) const = 0;
  virtual void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const = 0;
  virtual void loss(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                    Vector<B> out, double scale) const = 0;
  virtual void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                             RoutingGradients<Routing>& g, double scale) const = 0;
  virtual bool equals(const RegularizerPart& other) const = 0;
  virtual const void* type() const = 0;  // works without run-time type information
};

template <Backend B, class Routing, class A>
class RegularizerModel final : public RegularizerPart<B, Routing> {
 public:
  explicit RegularizerModel(A a) : regularizer_(std::move(a)) {}

  double weight() const override { return regularizer_.weight; }
  Index sums(const RoutingShape& s) const override { return regularizer_.sums(s); }
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const override {
    regularizer_.accumulate(b, ctx, r, sums);
  }
  void loss(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums, Vector<B> out,
            double scale) const override {
    scaled(scale).loss(b, ctx, r, sums, out);
  }
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g, double scale) const override {
    scaled(scale).loss_backward(b, ctx, r, sums, g);
  }
  bool equals(const RegularizerPart<B, Routing>& other) const override {
    return other.type() == type() &&
           static_cast<const RegularizerModel&>(other).regularizer_ == regularizer_;
  }
  const void* type() const override { return &type_tag_; }

 private:
  A scaled(double by) const {
    A a = regularizer_;
    a.weight *= by;
    return a;
  }
  inline static const char type_tag_ = 0;  // its address names the type
  A regularizer_;
};
}  // namespace detail

/// Regularizers chosen at run time. It models Regularizer with the sum of their losses, each with
/// its own weight, and tells the values apart:
///
///   const AnyRegularizers<B> losses{Importance{.weight = 0.01}, RouterZ{}};
///   const MoeLayer layer{cpu, shape, router, capacity, expert, losses};
///   losses.values(tape.sums[0])        // after a forward: importance, router_z, as in
///   losses.names()
///
/// Parts share one list that never changes, so a copy is cheap and allocates nothing. A part of
/// weight 0 costs nothing. Since a part may cover the whole batch, so do the sums of all.
template <Backend B, class Routing = SparseRouting<B>>
class AnyRegularizers {
  using T = typename B::Scalar;
  using Part = detail::RegularizerPart<B, Routing>;

 public:
  double weight = 1;  ///< of the sum of all

  static constexpr std::string_view name = "regularizers";
  static constexpr bool per_group = false;

  AnyRegularizers() : AnyRegularizers(List{}) {}
  template <class... A>
  requires(sizeof...(A) > 0 && (!std::same_as<A, AnyRegularizers> && ...) &&
           (Regularizer<A, B, Routing> && ...)) explicit AnyRegularizers(A... regularizer)
      : AnyRegularizers(make_list(std::move(regularizer)...)) {}

  Index size() const noexcept { return static_cast<Index>(list_->parts.size()); }
  /// Of the parts, in order.
  std::span<const std::string_view> names() const noexcept { return list_->names; }
  /// The parts' weighted losses, [size()], which `loss` leaves at the front of its sums.
  ConstVector<B> values(ConstVector<B> sums) const { return sums.middle(0, size()); }
  /// This list with one more.
  template <class A>
  requires Regularizer<A, B, Routing> AnyRegularizers with(A regularizer)
  const {
    List list = *list_;
    append(list, std::move(regularizer));
    AnyRegularizers more(std::move(list));
    more.weight = weight;
    return more;
  }

  Index sums(const RoutingShape& s) const {
    Index total = size();
    for (const auto& part : list_->parts) total += part->sums(s);
    return total;
  }
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    b.fill(sums.middle(0, size()), T(0));
    for_each_part(r.shape, [&](const Part& part, Index, Index first, Index n) {
      if (part.weight() != 0) {
        part.accumulate(b, ctx, r, sums.middle(first, n));
      } else {
        b.fill(sums.middle(first, n), T(0));
      }
    });
  }
  void loss(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
            Vector<B> out) const {
    // The room for values is not part of what is summed. It is memory of the tape, never a constant
    // object.
    const Vector<B> values(const_cast<T*>(sums.data), size());
    b.fill(values, T(0));
    for_each_part(r.shape, [&](const Part& part, Index i, Index first, Index n) {
      if (weight != 0 && part.weight() != 0)
        part.loss(b, ctx, r, sums.middle(first, n), values.middle(i, 1), weight);
    });
    b.for_each(1, detail::Total<B>{values, out});
  }
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    for_each_part(r.shape, [&](const Part& part, Index, Index first, Index n) {
      if (weight != 0 && part.weight() != 0)
        part.loss_backward(b, ctx, r, sums.middle(first, n), g, weight);
    });
  }
  friend bool operator==(const AnyRegularizers& a, const AnyRegularizers& b) {
    bool same = a.weight == b.weight && a.size() == b.size();
    for (std::size_t i = 0; same && i < a.list_->parts.size(); ++i)
      same = a.list_->parts[i]->equals(*b.list_->parts[i]);
    return same;
  }

 private:
  struct List {
    std::vector<std::shared_ptr<const Part>> parts;
    std::vector<std::string_view> names;
  };

  explicit AnyRegularizers(List list) : list_(std::make_shared<const List>(std::move(list))) {}

  template <class A>
  static void append(List& list, A regularizer) {
    list.parts.push_back(
        std::make_shared<const detail::RegularizerModel<B, Routing, A>>(std::move(regularizer)));
    list.names.push_back(A::name);
  }
  template <class... A>
  static List make_list(A... regularizer) {
    List list;
    (append(list, std::move(regularizer)), ...);
    return list;
  }
  /// f(part, its number, its first sum, its number of sums)
  template <class F>
  void for_each_part(const RoutingShape& s, const F& f) const {
    Index first = size();
    for (Index i = 0; i < size(); ++i) {
      const Part& part = *list_->parts[static_cast<std::size_t>(i)];
      const Index n = part.sums(s);
      f(part, i, first, n);
      first += n;
    }
  }

  std::shared_ptr<const List> list_;
};

/// The regularizers that `make_regularizers` knows by their names.
using NamedRegularizers =
    std::tuple<Importance, NoisyLoad, SwitchBalance, TopKBalance, RouterZ, LocalEntropy,
               GlobalEntropy, ThresholdEntropy, MutualInformation, TutelImportance, TutelLoad,
               PairwiseConsistency, PairwiseL2, PairwiseJsd, PairwiseTopKJsd>;

/// Their names, in that order.
inline constexpr auto regularizer_names = []<class... A>(const std::tuple<A...>*) {
  return std::array<std::string_view, sizeof...(A)>{A::name...};
}(static_cast<const NamedRegularizers*>(nullptr));

/// One entry of a configuration.
struct RegularizerChoice {
  std::string name{};              ///< one of regularizer_names
  std::optional<double> weight{};  ///< none: the regularizer's own
  LossDecay decay = LossDecay::none;
  /// What "pairwise_consistency" has besides: its two parts and its form. `weight` above is its own.
  PairwiseConsistency consistency{};
};

namespace detail {
template <Backend B, class Routing, class A>
void add_if_named(AnyRegularizers<B, Routing>& all, const RegularizerChoice& c, bool& known) {
  if (c.name != A::name) return;
  known = true;
  if constexpr (Regularizer<A, B, Routing>) {
    A a{};
    if constexpr (std::same_as<A, PairwiseConsistency>) a = c.consistency;
    if (c.weight) a.weight = *c.weight;
    all = all.with(WithDecay{c.decay, a});
  } else {
    throw_config(
        "moxie::make_regularizers: '", c.name,
        "' reads choices or noisy logits, which this router's kind of routing does not have");
  }
}
}  // namespace detail

/// Regularizers by their names.
/// @throws config_error for a name that there is not (with the nearest one there is), that comes
/// twice, or that needs more than this kind of routing has; for a weight that is not finite
template <Backend B, class Routing = SparseRouting<B>>
AnyRegularizers<B, Routing> make_regularizers(const std::vector<RegularizerChoice>& choices) {
  AnyRegularizers<B, Routing> all;
  for (const RegularizerChoice& c : choices) {
    if (c.weight && !math::is_finite(*c.weight))
      throw_config("moxie::make_regularizers: the weight of '", c.name, "' is ", *c.weight,
                   ", expected a finite number");
    for (const std::string_view there : all.names())
      if (there == c.name) throw_config("moxie::make_regularizers: '", c.name, "' is given twice");
    bool known = false;
    [&]<class... A>(const std::tuple<A...>*) {
      (detail::add_if_named<B, Routing, A>(all, c, known), ...);
    }(static_cast<const NamedRegularizers*>(nullptr));
    if (!known)
      throw_unknown_name("moxie::make_regularizers", "regularizer", c.name, regularizer_names);
  }
  return all;
}

}  // namespace moxie
