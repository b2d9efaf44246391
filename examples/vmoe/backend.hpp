#pragma once

/// The backend that the program is compiled for. The sources here are compiled once for each: as they are for the CPU,
/// with VMOE_BACKEND="cuda_backend.hpp" by nvcc for `vmoe --backend cuda`, and with one of the tests' for a device that is
/// none. Such a header defines in the namespace vmoe:
///
///   using Backend;                              moxie::Backend of floats
///   constexpr const char* backend_name;         as --backend has it
///   constexpr bool backend_uses_pool;           whether it computes by the worker threads, which are else free
///   Backend make_backend(moxie::ThreadPool& pool, const Options& options);
///   class Staging;                              what the host writes and the backend reads:
///     Staging(Backend& backend, std::size_t bytes);   zeros
///     void begin();                             the backend is done with what lies there once it has done what was enqueued
///     std::byte* host();                        where to write, after `begin`; any thread
///     void send();                              all of it is written; the thread that wrote
///     const std::byte* receive();               where the backend reads it in what is enqueued from now on
#if defined(VMOE_BACKEND)
#include VMOE_BACKEND
#else
#include "cpu_backend.hpp"
#endif
