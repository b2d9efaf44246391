#include "kernel_values.hpp"

#include <utility>

#include "mirror.hpp"

namespace vmoe {

std::vector<KernelValues> kernels_of(const Model& model, const std::string& name) {
  const auto& parameters = model.parameters();
  for (const moxie::ParameterEntry& entry : parameters.entries()) {
    if (entry.name != name) continue;
    const Index count = entry.expert_axis ? entry.shape.front() : 1;
    const Index size = entry.size() / count;
    std::vector<KernelValues> out;
    for (Index e = 0; e < count; ++e) {
      const std::vector<float> own =
          to_host(parameters.backend(), parameters.values().middle(entry.offset + e * size, size));
      out.push_back({entry.rows() / count, entry.cols(), {own.begin(), own.end()}});
    }
    return out;
  }
  return {};
}

KernelValues kernel_of(const Model& model, const std::string& name) {
  std::vector<KernelValues> found = kernels_of(model, name);
  return found.empty() ? KernelValues{} : std::move(found.front());
}

}  // namespace vmoe
