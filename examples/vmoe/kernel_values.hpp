#pragma once

#include <string>
#include <vector>

#include "model.hpp"
#include "moxie/robust/lipschitz.hpp"

namespace vmoe {

/// A kernel of a model in double, [inputs, outputs]: what certificates are made of.
struct KernelValues {
  Index rows = 0, cols = 0;
  std::vector<double> values;

  bool empty() const { return values.empty(); }
  moxie::detail::HostMatrix view() const { return {values.data(), rows, cols}; }
};

/// Those of a parameter, one for each expert if it has them; none if there is no such parameter.
std::vector<KernelValues> kernels_of(const Model& model, const std::string& name);

/// That of a parameter without experts; empty if there is no such parameter.
KernelValues kernel_of(const Model& model, const std::string& name);

}  // namespace vmoe
