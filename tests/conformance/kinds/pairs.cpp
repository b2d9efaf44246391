// Two views of images: which patches correspond, and losses of those that do.
#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/lists.hpp"
#include "moxie/regularizer/pairwise_consistency.hpp"
#include "moxie/regularizer/pairwise_jsd.hpp"
#include "moxie/regularizer/pairwise_l2.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "moxie/vision/patch_correspondence.hpp"

namespace moxie::conformance {
namespace {

Json json_of(const ViewMap& map) {
  return nested(std::vector<double>(map.m.begin(), map.m.end()), {3, 3});
}

struct PatchPartners {
  template <Backend B>
  static Json run(const Json& inputs, Ranking&) {
    const auto size = inputs.at("size").get<Index>();
    const auto patch = inputs.at("patch").get<Index>();
    Json out;
    for (const auto& [key, views] : inputs.items()) {
      if (key == "size" || key == "patch") continue;
      const ImageView one = view(views.at("view1"), size);
      const ImageView two = view(views.at("view2"), size);
      out[key] = {{"t_view1", json_of(one.map)},
                  {"t_view2", json_of(two.map)},
                  {"r", json_of(two.map * one.map.inverse())},
                  {"partners", list(patch_correspondence(one, two, patch))}};
    }
    return out;
  }

 private:
  static ImageView view(const Json& operations, Index size) {
    const auto n = static_cast<double>(size);
    ImageView v{.height = size, .width = size};
    for (const Json& o : operations) v.then(map(o, n));
    return v;
  }
  static ViewMap map(const Json& o, double n) {
    const auto name = o.at(0).get<std::string>();
    const auto number = [&](std::size_t i) { return o.at(i).get<double>(); };
    if (name == "crop_resize")
      return ViewMap::crop_resize({number(1), number(2), number(3), number(4)}, n, n);
    if (name == "hflip") return ViewMap::flip_horizontal(n);
    if (name == "rotate") return ViewMap::rotation(number(1), n, n);
    if (name == "shear_x") return ViewMap::shear_x(number(1));
    if (name == "shear_y") return ViewMap::shear_y(number(1));
    if (name == "translate") return ViewMap::translation(number(1), number(2));
    throw std::invalid_argument("there is no operation '" + name + "'");
  }
};

/// The gates of all first views, then those of all second ones, as rows of one batch.
template <Backend B>
struct Stacked {
  using T = typename B::Scalar;
  B backend{};
  Index images, tokens, others, experts;  // of a first view, of a second one
  SparseFixture<B> f;

  explicit Stacked(const Json& inputs)
      : images(length(inputs.at("p1"))),
        tokens(columns(inputs["p1"])),
        others(columns(inputs.at("p2"))),
        experts(columns(inputs["p1"][0])),
        f(backend, {.tokens = images * (tokens + others), .experts = experts, .choices = 1}) {
    std::vector<double> probs = flat<double>(inputs["p1"]);
    for (const double p : flat<double>(inputs["p2"])) probs.push_back(p);
    f.set_probs(probs);
    std::vector<std::int32_t> rows;
    for (Index b = 0; b < images; ++b)
      for (const Json& pair : inputs.at("pairs").at(at(b))) {
        rows.push_back(static_cast<std::int32_t>(b * tokens + pair.at(0).get<Index>()));
        rows.push_back(
            static_cast<std::int32_t>(images * tokens + b * others + pair.at(1).get<Index>()));
      }
    f.set_pairs(rows);
  }
  /// The loss; sums and gradients stay.
  template <class A>
  double loss(const A& a, const Buffer<B, T>& sums) {
    const Buffer<B, T> value(backend, 1);
    a.accumulate(backend, f.context, f.routing, sums.view());
    a.loss(backend, f.context, f.routing, ConstVector<B>(sums.view()), value.view());
    f.zero_gradients();
    a.loss_backward(backend, f.context, f.routing, ConstVector<B>(sums.view()), f.gradients);
    return static_cast<double>(host(backend, value.view()).at(0));
  }
  template <class A>
  double loss(const A& a) {
    return loss(a, Buffer<B, T>(backend, a.sums(f.shape())));
  }
  Json consistency(const PairwiseConsistency& a) {
    const Buffer<B, T> sums(backend, a.sums(f.shape()));
    Json out{{"loss", loss(a, sums)}};
    const auto d = host(backend, f.gradients.probs);
    const auto second = d.begin() + images * tokens * experts;
    out["dp1"] = nested(std::vector<T>(d.begin(), second), {images, tokens, experts});
    out["dp2"] = nested(std::vector<T>(second, d.end()), {images, others, experts});
    const Table<B> m(backend, experts, experts);
    a.co_routing(backend, ConstVector<B>(sums.view()), m.view());
    out["m"] = m.json();
    PairwiseConsistency part = a;
    part.diagonal = 1;
    part.off_diagonal = 0;
    out["diag"] = loss(part);
    part.diagonal = 0;
    part.off_diagonal = 1;
    out["off"] = loss(part);
    return out;
  }
};

struct PairLosses {
  template <Backend B>
  static Json run(const Json& inputs, Ranking&) {
    Stacked<B> views(inputs);
    PairwiseConsistency prc{.diagonal = inputs.at("w_diag").get<double>(),
                            .off_diagonal = inputs.at("w_off").get<double>()};
    Json out{{"matrix", views.consistency(prc)},
             {"l2", views.loss(PairwiseL2{.weight = 1})},
             {"jsd", views.loss(PairwiseJsd{.weight = 1})}};
    prc.form = ConsistencyDiagonal::position;
    prc.tokens_per_image = views.tokens;
    out["position"] = views.consistency(prc);
    return out;
  }
};

}  // namespace

std::vector<Kind> pair_kinds() {
  return {make_kind<PatchPartners>("16_patch_partners"), make_kind<PairLosses>("17_prc")};
}

}  // namespace moxie::conformance
