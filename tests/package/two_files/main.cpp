#include "all_headers.hpp"

moxie::CpuBackend<float>& backend_of_other();

int main() {
  const moxie::Linear<moxie::CpuBackend<float>> linear(moxie::root(backend_of_other()) / "one", 3,
                                                       2);
  return linear.input_width() == 3 ? 0 : 1;
}
