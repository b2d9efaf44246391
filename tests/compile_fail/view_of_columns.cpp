// expects: as_view
// expects: EigenRows
#include "moxie/core/eigen.hpp"

int main() {
  Eigen::MatrixXf tokens = Eigen::MatrixXf::Zero(4, 3);  // [width, tokens], column after column
#ifndef MOXIE_FAIL
  const moxie::MatrixView<float> view = moxie::as_view(tokens.transpose());
#else
  const moxie::MatrixView<float> view = moxie::as_view(tokens);
#endif
  return view.rows == 3 ? 0 : 1;
}
