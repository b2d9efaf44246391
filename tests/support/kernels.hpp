#pragma once

#include "moxie/backend/cpu/compiled.hpp"

// The CPU backend's products are most of what a test would compile; they are compiled once for all, in kernels.cpp.
MOXIE_CPU_PRODUCTS(extern, float)
MOXIE_CPU_PRODUCTS(extern, double)
