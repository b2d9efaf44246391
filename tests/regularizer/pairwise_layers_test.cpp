// Pairwise losses on layers: every kind of router, down to the input, and in a transformer whose
// tokens are the rows of two views.
#include <doctest/doctest.h>

#include <map>

#include "moxie/capacity/factor.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/vit.hpp"
#include "moxie/regularizer/pairwise_consistency.hpp"
#include "moxie/regularizer/pairwise_jsd.hpp"
#include "moxie/regularizer/pairwise_l2.hpp"
#include "moxie/router/expert_choice.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
#include "moxie/router/soft.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "moxie/testing/law_report.hpp"
#include "moxie/vision/patch_correspondence.hpp"
#include "moxie/vision/stacked_pairs.hpp"
#include "support/backends.hpp"

using namespace moxie;

namespace {

using Ids = std::vector<std::int32_t>;
constexpr GaussianNoise noise{.std = 1};
// Two views of 4 tokens: one pair of each kind, token 6 twice.
const Ids two_views{0, 5, 1, 6, 3, 6, 2, -1};

template <class B>
ConstIntMatrix<B> pairs_of(const test::Buffer<std::int32_t, B>& ids) {
  return ids.view(ids.size() / 2, 2);
}
template <class B, class R, class C, class... A>
auto layer_of(B& backend, const R& router, const C& capacity, A... regularizers) {
  return MoeLayer(backend, MoeShape{.width = 5, .experts = 3, .group = 4, .seed = 7}, router,
                  capacity, FeedForward<Gelu>{.hidden = 6}, regularizers...);
}

/// Weights so large that an error in these losses shows.
template <class B, class R, class C>
void check_gradients_of(B& backend, const R& router, const C& capacity) {
  const test::Buffer<std::int32_t, B> ids(backend, two_views);
  const auto check = [&](const auto& layer) {
    const testing::GradientReport report = testing::check_gradients(
        layer, 8,
        testing::GradientOptions<B>{.pass = {.seed = 3, .step = 2, .pairs = pairs_of(ids)},
                                    .most_per_entry = 12,
                                    .row_multiple = 4});
    CHECK_MESSAGE(report.passed, report.message);
  };
  check(layer_of(backend, router, capacity, PairwiseConsistency{.diagonal = 20, .off_diagonal = 30},
                 PairwiseL2{.weight = 10}));
  check(layer_of(backend, router, capacity,
                 PairwiseConsistency{.diagonal = 20,
                                     .off_diagonal = 30,
                                     .form = ConsistencyDiagonal::position,
                                     .tokens_per_image = 4},
                 PairwiseJsd{.weight = 10}));
}

/// Values of a training pass over rows that are the same each time.
template <class L>
std::vector<double> losses(const L& layer, const Pass<typename L::BackendType>& pass) {
  using B = typename L::BackendType;
  B& backend = layer.parameters().backend();
  testing::detail::Draw draw(4);
  const std::vector<double> normals = draw.normals(8 * layer.input_width());
  const test::Buffer<typename B::Scalar, B> x(
      backend, std::vector<typename B::Scalar>(normals.begin(), normals.end()));
  const test::Buffer<typename B::Scalar, B> y(backend, 8 * layer.output_width(), 0);
  auto tape = layer.make_tape(8);
  layer.forward(x.view(8, layer.input_width()), y.view(8, layer.output_width()), *tape, pass);
  const auto values = layer.read_losses(*tape);
  return {values.begin(), values.end()};
}

}  // namespace

TEST_CASE_TEMPLATE("gradients through token choice agree with central differences", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = test::make_backend<B>();
  check_gradients_of(backend, WithNoise{noise, TopKRouter{.k = 2}}, CapacityFactor{});
}
TEST_CASE_TEMPLATE("gradients through a Sinkhorn router agree with central differences", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = test::make_backend<B>();
  check_gradients_of(backend, WithNoise{noise, SinkhornTopKRouter{.k = 2}}, CapacityFactor{});
}
TEST_CASE_TEMPLATE("gradients through expert choice agree with central differences", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = test::make_backend<B>();
  check_gradients_of(backend, WithNoise<GaussianNoise, ExpertChoiceRouter>(noise, {}),
                     FixedCapacity{2});
}
TEST_CASE_TEMPLATE("gradients through soft routing agree with central differences", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = test::make_backend<B>();
  check_gradients_of(backend, SoftRouter{}, FixedCapacity{2});
}

TEST_CASE_TEMPLATE("losses of pairs are of the clean gates, and 0 in a pass without pairs", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const test::Buffer<std::int32_t, B> ids(backend, two_views);
  const Pass<B> pass{.seed = 3, .pairs = pairs_of(ids)};
  const PairwiseConsistency prc;
  const PairwiseL2 l2;
  const auto noisy =
      layer_of(backend, WithNoise{noise, TopKRouter{.k = 1}}, CapacityFactor{}, prc, l2);
  const auto clean = layer_of(backend, TopKRouter{.k = 1}, CapacityFactor{}, prc, l2);
  const std::vector<double> got = losses(noisy, pass);
  CHECK(got == losses(clean, pass));  // of the clean gates
  CHECK(got[0] > 0);
  CHECK(got[1] > 0);
  CHECK(losses(noisy, {.seed = 3}) == std::vector<double>{0, 0});
  CHECK(losses(noisy, pass.without_regularizers()) == std::vector<double>{0, 0});
  // Of soft routing, the mass that a token gives to each expert.
  const auto soft = layer_of(backend, SoftRouter{}, FixedCapacity{2}, prc, l2);
  CHECK(losses(soft, pass)[0] > 0);
}

namespace {

/// The first loss of each MoE layer, in order.
template <class B>
class FirstLosses final : public RoutingVisitor<B> {
 public:
  explicit FirstLosses(B& backend) : backend_(backend) {}
  void losses(std::span<const std::string_view>, ConstVector<B> v) override {
    typename B::Scalar value = 0;
    backend_.copy_to_host(&value, v.data, sizeof(value));
    values.push_back(static_cast<double>(value));
  }
  std::vector<double> values;

 private:
  B& backend_;
};

}  // namespace

TEST_CASE_TEMPLATE("two views of an image in a transformer, each layer with its own weight", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = test::make_backend<B>();
  const VitConfig config{.image_height = 8,
                         .image_width = 8,
                         .channels = 1,
                         .patch = 4,
                         .width = 4,
                         .blocks = 3,
                         .heads = 2,
                         .hidden = 4,
                         .classes = 3,
                         .pooling = Pooling::token,
                         .moe_blocks = {0, 1, 2},
                         .seed = 5};
  const auto vit_of = [&](const std::map<Index, double>& of_block) {
    return Vit<B>(backend, config, [&](const Scope<B>& scope, Index block) {
      const MoeShape shape{.width = 4, .experts = 3, .group = config.tokens()};
      return MoeLayer(scope, shape, TopKRouter{.k = 1}, CapacityFactor{},
                      FeedForward<Gelu>{.hidden = 4},
                      PairwiseConsistency{.weight = of_block.at(block)});
    });
  };
  // The second view is the first one mirrored; class tokens come first.
  const ImageView a = ImageView::crop({0, 0, 8, 8}, 8, 8);
  const ImageView b = ImageView(a).then(ViewMap::flip_horizontal(8));
  Ids rows;
  append_pairs(patch_correspondence(a, b, 4),
               {.tokens_per_image = config.tokens(), .class_token = true}, 0, 1, true, rows);
  CHECK(rows == Ids{0, 5, 1, 7, 2, 6, 3, 9, 4, 8});
  const test::Buffer<std::int32_t, B> ids(backend, rows);
  const Pass<B> pass{.pairs = pairs_of(ids)};

  const auto values = [&](const Vit<B>& vit) {
    testing::detail::Draw draw(4);
    const test::Buffer<double, B> x(backend, draw.normals(2 * vit.input_width()));
    const test::Buffer<double, B> y(backend, 2 * vit.output_width(), 0);
    auto tape = make_tape(vit, 2);
    vit.forward(x.view(2, vit.input_width()), y.view(2, vit.output_width()), *tape, pass);
    FirstLosses<B> seen(backend);
    vit.visit_routing(*tape, seen);
    return seen.values;
  };
  const std::vector<double> alike = values(vit_of({{0, 1}, {1, 1}, {2, 1}}));
  const Vit<B> vit = vit_of({{0, 1}, {1, 0}, {2, 3}});
  const std::vector<double> own = values(vit);
  REQUIRE(own.size() == 3);
  CHECK(own[0] == alike[0]);
  CHECK(own[1] == 0);
  CHECK(alike[1] > 0);
  CHECK(own[2] == doctest::Approx(3 * alike[2]).epsilon(1e-12));

  const testing::GradientReport report = testing::check_gradients(
      vit_of({{0, 100}, {1, 0}, {2, 200}}), 2,
      testing::GradientOptions<B>{.pass = pass, .most_inputs = 16, .most_per_entry = 6});
  CHECK_MESSAGE(report.passed, report.message);
}
