#include "runtime/made_layers_of.hpp"

#if defined(MOXIE_TEST_THRUST)
MOXIE_TEST_MADE_LAYERS(moxie::ThrustHostBackend<double>)
MOXIE_TEST_MADE_GRADIENTS(moxie::ThrustHostBackend<double>)
#endif
