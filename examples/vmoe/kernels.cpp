#include "kernels.hpp"

namespace moxie {
template void CpuBackend<float>::gemm(Op, Op, float, MatrixView<const float>,
                                      MatrixView<const float>, float, MatrixView<float>) const;
template void CpuBackend<float>::batched_gemm(Op, Op, float, BatchView<const float>,
                                              BatchView<const float>, float,
                                              BatchView<float>) const;
template void CpuBackend<float>::grouped_gemm(const Rows<CpuBackend<float>>&, Op,
                                              MatrixView<const float>, MatrixView<float>) const;
template void CpuBackend<float>::grouped_gemm_weights(const Rows<CpuBackend<float>>&,
                                                      const Rows<CpuBackend<float>>&,
                                                      MatrixView<float>) const;
template class RoutingTelemetry<CpuBackend<float>>;
}  // namespace moxie
