#include "require_finite.hpp"

#include <cmath>

#include "mirror.hpp"

namespace vmoe {

void require_finite(const moxie::Parameters<Backend>& parameters,
                    moxie::ConstVector<Backend> values, std::string_view kind) {
  const std::vector<float> own = to_host(parameters.backend(), values);
  for (const moxie::ParameterEntry& entry : parameters.entries()) {
    if (!entry.trained) continue;
    for (Index i = 0; i < entry.size(); ++i)
      if (!std::isfinite(own[to_size(entry.offset + i)]))
        moxie::throw_numeric(kind, " '", entry.name, "' is not finite, first at element ", i,
                             " of ", entry.size());
  }
}

}  // namespace vmoe
