#include "runtime/made_layers_of.hpp"

MOXIE_TEST_MADE_LAYERS(moxie::CpuBackend<float>)
