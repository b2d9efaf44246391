// What the other files are measured by: work for a compiler that never changes with the library.
#include <Eigen/Dense>

double reference(const Eigen::MatrixXd& a) {
  return Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(a).eigenvalues().sum();
}
