// expects: moxie::WithBlocks: the router must choose a token's experts by their logits alone
#include "moxie/backend/cpu.hpp"
#include "moxie/router/ensemble.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
#include "moxie/router/top_k.hpp"

using namespace moxie;

#ifdef MOXIE_FAIL
using Blocked = SinkhornTopKRouter;  // its plan looks at all experts
#else
using Blocked = TopKRouter;
#endif

int main() {
  const WithBlocks router{EnsembleBlocks{.members = 2}, Blocked{.k = 1}};
  return router.choices(4) == 1 ? 0 : 1;
}
