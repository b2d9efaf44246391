// Pairwise Router Consistency in one's own loop: patches that show the same in two views of an image
// are routed alike.
#include <cmath>
#include <cstdio>
#include <moxie/moxie.hpp>
#include <moxie/optimizer/adam_w.hpp>
#include <moxie/routing/routing_change.hpp>
#include <vector>

namespace demo {
using B = moxie::CpuBackend<double>;
using moxie::Index;
constexpr Index side = 16, patch = 4, width = patch * patch, tokens = 16, images = 8;
constexpr Index rows = 2 * images * tokens;  // two views of each image

/// Adds the patches of one view, where a pixel of the source is drawn from the map's way back.
void append_view(std::vector<double>& x, Index image, const moxie::ImageView& view) {
  const moxie::ViewMap back = view.map.inverse();
  for (Index t = 0; t < tokens; ++t)
    for (Index j = 0; j < width; ++j) {
      const auto p = back({static_cast<double>(t / patch * patch + j / patch) + 0.5,
                           static_cast<double>(t % patch * patch + j % patch) + 0.5});
      x.push_back(std::sin(0.4 * p.y + static_cast<double>(image)) *
                  std::cos(0.3 * p.x * static_cast<double>(1 + image % 3)));
    }
}

/// Trains a layer to give each token its mean, and returns how many pairs it then routes apart.
double routed_apart(double weight) {
  B cpu;
  const moxie::MoeLayer layer{
      cpu,
      {.width = width, .experts = 4, .seed = 1},
      moxie::TopKRouter{.k = 1},
      moxie::CapacityFactor{.factor = 2},
      moxie::FeedForward<moxie::Gelu>{.hidden = 16},
      moxie::PairwiseConsistency{.weight = weight, .diagonal = 0.5, .off_diagonal = 5}};
  std::vector<double> x;
  std::vector<std::int32_t> pairs;
  for (Index i = 0; i < images; ++i) {
    const auto a = moxie::ImageView::crop({2, 3, 12, 10}, side, side);
    const auto b = moxie::ImageView::crop({0, 0, 16, 16}, side, side)
                       .then(moxie::ViewMap::flip_horizontal(side));
    append_view(x, i, a);
    append_view(x, i, b);
    moxie::append_pairs(moxie::patch_correspondence(a, b, patch), {.tokens_per_image = tokens},
                        2 * i, 2 * i + 1, false, pairs);
  }
  const moxie::Pass<B> pass{.pairs = {pairs.data(), static_cast<Index>(pairs.size() / 2), 2}};

  const moxie::AdamW adam;
  moxie::AdamW::State<B> state{adam, layer.parameters()};
  auto tape = layer.make_tape(rows);
  std::vector<double> y(x.size()), dy(x.size());
  for (int step = 0; step < 200; ++step) {
    layer.parameters().zero_gradients();
    layer.forward({x.data(), rows, width}, {y.data(), rows, width}, tape, pass);
    for (std::size_t row = 0; row < y.size(); row += width) {
      double mean = 0;
      for (std::size_t j = row; j < row + width; ++j) mean += x[j] / width;
      for (std::size_t j = row; j < row + width; ++j)
        dy[j] = 2 * (y[j] - mean) / static_cast<double>(y.size());
    }
    layer.backward({dy.data(), rows, width}, {}, tape);  // the consistency loss's gradient is in it
    adam.update(layer.parameters(), layer.parameters().range(), state, 1e-2);
  }
  moxie::TokenExpertsReader<B> reader(cpu, 1);
  layer.visit_routing(tape, reader);
  return moxie::routing_change(reader.layers[0], reader.layers[0], pairs).top1;
}
}  // namespace demo

int main() {
  const double without = demo::routed_apart(0), with = demo::routed_apart(1);
  std::printf("pairs of patches routed apart without PRC: more than a quarter: %s\n",
              without > 0.25 ? "yes" : "no");
  std::printf("with PRC: less than three quarters of those: %s\n",
              with < 0.75 * without ? "yes" : "no");
}
