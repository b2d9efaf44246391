#include "support/kernels.hpp"

MOXIE_CPU_PRODUCTS(, float)
MOXIE_CPU_PRODUCTS(, double)
