#include "support/kernels.hpp"

MOXIE_TEST_KERNELS(, float)
MOXIE_TEST_KERNELS(, double)
