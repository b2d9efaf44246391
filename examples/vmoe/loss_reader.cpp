#include "loss_reader.hpp"

namespace vmoe {

void LossReader::loss_parts(std::span<const std::string_view> names,
                            moxie::ConstVector<Backend> values) {
  for (std::size_t i = 0; i < names.size(); ++i)
    sums[std::string(prefix_).append(names[i])] +=
        static_cast<double>(values[static_cast<Index>(i)]);
}

}  // namespace vmoe
