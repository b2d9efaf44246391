#pragma once

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

namespace moxie::test {

/// Captures what `enqueue` enqueues on the stream into a graph, and launches that `times` times.
template <class F>
void run_captured(cudaStream_t stream, int times, const F& enqueue) {
  cudaGraph_t graph{};
  cudaGraphExec_t step{};
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  try {
    enqueue();
  } catch (...) {  // a stream that stays in capture would fail the cases after this one too
    cudaStreamEndCapture(stream, &graph);
    throw;
  }
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&step, graph, 0) == cudaSuccess);
  for (int i = 0; i < times; ++i) REQUIRE(cudaGraphLaunch(step, stream) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  cudaGraphExecDestroy(step);
  cudaGraphDestroy(graph);
}

}  // namespace moxie::test
