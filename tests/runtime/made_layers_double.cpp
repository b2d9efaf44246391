#include "runtime/made_layers_of.hpp"

MOXIE_TEST_MADE_LAYERS(moxie::CpuBackend<double>)
MOXIE_TEST_MADE_GRADIENTS(moxie::CpuBackend<double>)
