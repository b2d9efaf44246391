// expects: layer.backward(x, y, tape)
#include "moxie/backend/cpu.hpp"
#include "moxie/layer/tape.hpp"

using namespace moxie;

/// y = 0.
template <Backend B>
struct ZeroLayer {
  using BackendType = B;
  struct Tape {};
  std::shared_ptr<Parameters<B>> own;

  Index input_width() const { return 4; }
  Index output_width() const { return 4; }
  Parameters<B>& parameters() const { return *own; }
  void bind(Arena<B>&, Index, Tape&) const {}
  void forward(ConstMatrix<B>, Matrix<B> y, Tape&, const Pass<B>&) const {
    own->backend().fill(Vector<B>(y.data, y.size()), 0);
  }
#ifndef MOXIE_FAIL
  void backward(ConstMatrix<B>, Matrix<B> dx, Tape&) const {
    own->backend().fill(Vector<B>(dx.data, dx.size()), 0);
  }
#endif
};

int main() {
  using B = CpuBackend<float>;
  B cpu;
  const ZeroLayer<B> layer{root(cpu).parameters};
  layer.parameters().initialize(0);
  auto tape = make_tape(layer, 8);
  return layer.input_width() == 4 ? 0 : 1;
}
