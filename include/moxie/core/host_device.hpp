#pragma once

/// Marks what runs on a device as well as on the host: `__host__ __device__` under nvcc, nothing elsewhere.
#if defined(__CUDACC__)
#define MOXIE_HD __host__ __device__
/// Before `template` of what is MOXIE_HD and calls a functor it is given: on the host that may be a functor of the host.
#define MOXIE_CALLS_GIVEN _Pragma("nv_exec_check_disable")
#else
#define MOXIE_HD
#define MOXIE_CALLS_GIVEN
#endif

/// Always inlined: what stays outside a machine-level trampoline (backend/cpu/level.hpp) would run at
/// the baseline instruction set.
#if defined(__GNUC__)
#define MOXIE_INLINE inline __attribute__((always_inline))
#else
#define MOXIE_INLINE inline
#endif
