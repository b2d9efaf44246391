// One layer of one scalar, forward and backward, and nothing else.
#include <moxie/moxie.hpp>

using B = moxie::CpuBackend<float>;

void step(moxie::ConstMatrix<B> x, moxie::Matrix<B> y, moxie::ConstMatrix<B> dy,
          moxie::Matrix<B> dx) {
  B cpu;
  const moxie::MoeLayer layer{cpu,
                              {.width = x.cols, .experts = 8},
                              moxie::TopKRouter{.k = 2},
                              moxie::CapacityFactor{.factor = 1.25},
                              moxie::FeedForward<moxie::Gelu>{.hidden = 128},
                              moxie::Importance{.weight = 0.01}};
  auto tape = layer.make_tape(x.rows);
  layer.forward(x, y, tape, {.seed = 1});
  layer.backward(dy, dx, tape);
}
