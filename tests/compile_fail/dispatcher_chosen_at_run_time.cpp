// expects: moxie::AnyRouter: a router that brings its own dispatcher cannot be chosen at run
#include "moxie/backend/cpu.hpp"
#include "moxie/dispatch/einsum.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/runtime/any_router.hpp"

using namespace moxie;

int main() {
#ifdef MOXIE_FAIL
  const AnyRouter<CpuBackend<float>> router = WithDispatcher{EinsumDispatcher{}, TopKRouter{}};
#else
  const AnyRouter<CpuBackend<float>> router = TopKRouter{};
#endif
  return router.choices(2) == 1 ? 0 : 1;
}
