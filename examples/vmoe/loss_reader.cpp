#include "loss_reader.hpp"

#include "mirror.hpp"

namespace vmoe {

void LossReader::loss_parts(std::span<const std::string_view> names,
                            moxie::ConstVector<Backend> values) {
  const std::vector<float> own = to_host(backend_, values);
  for (std::size_t i = 0; i < names.size(); ++i)
    sums[std::string(prefix_).append(names[i])] += static_cast<double>(own[i]);
}

}  // namespace vmoe
