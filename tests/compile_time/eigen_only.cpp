// What the other files are measured by: work for a compiler that never changes with the library.
#include <Eigen/Dense>

double reference(const Eigen::MatrixXd& a, const Eigen::MatrixXf& b) {
  const Eigen::VectorXd ones = Eigen::VectorXd::Ones(a.rows());
  double sum = a.fullPivLu().solve(ones).sum();
  sum += a.householderQr().solve(ones).sum();
  sum += Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(a).eigenvalues().sum();
  sum += Eigen::JacobiSVD<Eigen::MatrixXf>(b).singularValues().cast<double>().sum();
  return sum + static_cast<double>((b * b.transpose()).norm());
}
