#pragma once

#include "moxie/backend/cpu/compiled.hpp"
#include "moxie/routing/statistics.hpp"

// The backend's products are the largest part of what there is to compile: once for the program, in
// kernels.cpp, beside the other sources instead of inside each.
MOXIE_CPU_PRODUCTS(extern, float)
extern template class moxie::RoutingTelemetry<moxie::CpuBackend<float>>;
