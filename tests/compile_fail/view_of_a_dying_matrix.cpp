// expects: as_view
// expects: DyingMatrix
#include "moxie/core/eigen.hpp"

int main() {
  moxie::EigenMatrix<float> tokens = moxie::EigenMatrix<float>::Zero(3, 4);
#ifndef MOXIE_FAIL
  const moxie::MatrixView<float> view = moxie::as_view(tokens);
#else
  const moxie::MatrixView<float> view = moxie::as_view(moxie::EigenMatrix<float>(tokens * 2));
#endif
  return view.rows == 3 ? 0 : 1;
}
