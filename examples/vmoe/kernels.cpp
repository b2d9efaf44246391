#include "kernels.hpp"

MOXIE_CPU_PRODUCTS(, float)
template class moxie::RoutingTelemetry<moxie::CpuBackend<float>>;
