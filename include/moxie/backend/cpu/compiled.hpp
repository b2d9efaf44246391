#pragma once

#include "moxie/backend/cpu.hpp"

/// Compiles the CPU backend's products once for a program of many files, instead of in each that has a layer. In a header
/// that all of them include, and in one source file, outside of any namespace:
///
///   MOXIE_CPU_PRODUCTS(extern, float)     // header: they are somewhere else
///   MOXIE_CPU_PRODUCTS(, float)           // source: here
#define MOXIE_CPU_PRODUCTS(specifier, T)                                                  \
  specifier template void moxie::CpuBackend<T>::gemm(                                     \
      moxie::Op, moxie::Op, T, moxie::MatrixView<const T>, moxie::MatrixView<const T>, T, \
      moxie::MatrixView<T>) const;                                                        \
  specifier template void moxie::CpuBackend<T>::batched_gemm(                             \
      moxie::Op, moxie::Op, T, moxie::BatchView<const T>, moxie::BatchView<const T>, T,   \
      moxie::BatchView<T>) const;                                                         \
  specifier template void moxie::CpuBackend<T>::grouped_gemm(                             \
      const moxie::Rows<moxie::CpuBackend<T>>&, moxie::Op, moxie::MatrixView<const T>,    \
      moxie::MatrixView<T>) const;                                                        \
  specifier template void moxie::CpuBackend<T>::grouped_gemm_weights(                     \
      const moxie::Rows<moxie::CpuBackend<T>>&, const moxie::Rows<moxie::CpuBackend<T>>&, \
      moxie::MatrixView<T>) const;                                                        \
  specifier template class moxie::detail::CpuExpertProduct<T>;
