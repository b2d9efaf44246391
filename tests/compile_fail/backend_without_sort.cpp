// expects: b.sort_pairs(
#include "moxie/backend/cpu.hpp"
#include "moxie/nn/linear.hpp"

using namespace moxie;

/// A backend of one's own.
struct OwnBackend : CpuBackend<float> {
#ifdef MOXIE_FAIL
  void sort_pairs(IntVector<OwnBackend>, IntVector<OwnBackend>, int, Scratch<OwnBackend>) = delete;
#endif
};

int main() {
  OwnBackend own;
  const Linear<OwnBackend> layer(root(own), 4, 2);
  return layer.input_width() == 4 ? 0 : 1;
}
