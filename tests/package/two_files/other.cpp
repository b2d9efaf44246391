#include "all_headers.hpp"

moxie::CpuBackend<float>& backend_of_other();
moxie::CpuBackend<float>& backend_of_other() {
  static moxie::CpuBackend<float> cpu;
  const moxie::Linear<moxie::CpuBackend<float>> linear(moxie::root(cpu) / "two", 3, 2);
  return cpu;
}
