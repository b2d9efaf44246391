#include <cstdio>
#include <moxie/backend/cuda.hpp>
#include <vector>

int main() {
  using B = moxie::CudaBackend<float>;
  try {
    moxie::CudaStream stream;
    B gpu(moxie::CudaLeaf(stream.get()));
    std::vector<float> host(1000);
    const std::size_t bytes = host.size() * sizeof(float);
    auto* device = static_cast<float*>(gpu.allocate(bytes));
    gpu.fill(moxie::Vector<B>(device, 1000), 2.0F);
    gpu.copy_to_host(host.data(), device, bytes);
    gpu.deallocate(device, bytes);
    return host.front() == 2 && host.back() == 2 ? 0 : 1;
  } catch (const moxie::cuda_error& e) {
    std::printf("no GPU here: %s\n", e.what());
    return 0;
  }
}
