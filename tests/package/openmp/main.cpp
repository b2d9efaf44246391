#include <moxie/backend/cpu.hpp>
#include <moxie/backend/openmp_executor.hpp>
#include <vector>

int main() {
  moxie::OpenMpExecutor executor(2);
  const moxie::CpuBackend<float> cpu{executor};
  std::vector<float> x(1000);
  const moxie::VectorView<float> all(x.data(), 1000);
  cpu.fill(all, 2.0F);
  return x.front() == 2 && x.back() == 2 ? 0 : 1;
}
