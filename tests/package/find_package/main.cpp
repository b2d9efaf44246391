#include <moxie/moxie.hpp>

int main() {
  const float numbers[6] = {1, 2, 3, 4, 5, 6};
  const moxie::MatrixView<const float> matrix{numbers, 2, 3};
  return matrix(1, 2) == 6 && matrix.middle(1, 1)(0, 0) == 4 ? 0 : 1;
}
