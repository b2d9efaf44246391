#include "runtime/made_layers_of.hpp"

#if defined(MOXIE_TEST_THRUST)
#include "device/deferred_leaf.hpp"

MOXIE_TEST_MADE_LAYERS(moxie::test::DeferredBackend<double>)
#endif
