#pragma once

#include "moxie/backend/cpu.hpp"
#include "moxie/routing/statistics.hpp"

// The backend's products are the largest part of what there is to compile: once for the program, in
// kernels.cpp, beside the other sources instead of inside each.
namespace moxie {
extern template void CpuBackend<float>::gemm(Op, Op, float, MatrixView<const float>,
                                             MatrixView<const float>, float,
                                             MatrixView<float>) const;
extern template void CpuBackend<float>::batched_gemm(Op, Op, float, BatchView<const float>,
                                                     BatchView<const float>, float,
                                                     BatchView<float>) const;
extern template void CpuBackend<float>::grouped_gemm(const Rows<CpuBackend<float>>&, Op,
                                                     MatrixView<const float>,
                                                     MatrixView<float>) const;
extern template void CpuBackend<float>::grouped_gemm_weights(const Rows<CpuBackend<float>>&,
                                                             const Rows<CpuBackend<float>>&,
                                                             MatrixView<float>) const;
extern template class RoutingTelemetry<CpuBackend<float>>;
}  // namespace moxie
