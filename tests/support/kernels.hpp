#pragma once

#include "moxie/backend/cpu.hpp"

// The CPU backend's products are most of what a test would compile; they are compiled once for all, in kernels.cpp.
#define MOXIE_TEST_KERNELS(specifier, T)                                                            \
  specifier template void moxie::CpuBackend<T>::gemm(moxie::Op, moxie::Op, T,                       \
                                                     moxie::MatrixView<const T>,                    \
                                                     moxie::MatrixView<const T>, T,                 \
                                                     moxie::MatrixView<T>) const;                   \
  specifier template void moxie::CpuBackend<T>::batched_gemm(                                       \
      moxie::Op, moxie::Op, T, moxie::BatchView<const T>, moxie::BatchView<const T>, T,             \
      moxie::BatchView<T>) const;                                                                   \
  specifier template void moxie::CpuBackend<T>::grouped_gemm(                                       \
      const moxie::Rows<moxie::CpuBackend<T>>&, moxie::Op, moxie::MatrixView<const T>,              \
      moxie::MatrixView<T>) const;                                                                  \
  specifier template void moxie::CpuBackend<T>::grouped_gemm_weights(                               \
      const moxie::Rows<moxie::CpuBackend<T>>&, const moxie::Rows<moxie::CpuBackend<T>>&,           \
      moxie::MatrixView<T>) const;                                                                  \
  specifier template class moxie::detail::CpuExpertProduct<T>;

MOXIE_TEST_KERNELS(extern, float)
MOXIE_TEST_KERNELS(extern, double)
