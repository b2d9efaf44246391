// expects: target.gradient(
#include "moxie/backend/cpu.hpp"
#include "moxie/robust/target.hpp"

using namespace moxie;

/// Sees class 0 everywhere.
struct Blind {
  using BackendType = CpuBackend<float>;
  using B = BackendType;
  B* own;

  B& backend() const { return *own; }
  Index input_width() const { return 4; }
  Index classes() const { return 2; }
  void bind(Arena<B>&, Index) {}
  void scores(ConstMatrix<B>, ConstIntVector<B>, Matrix<B>) {}
#ifndef MOXIE_FAIL
  void gradient(ConstMatrix<B>, Matrix<B>) {}
#endif
};

template <AttackTarget M>
int attack(const M&) {
  return 0;
}

int main() {
  CpuBackend<float> cpu;
  return attack(Blind{&cpu});
}
