#pragma once

#include <string_view>

#include "model.hpp"

namespace vmoe {

/// `values` are laid out like the parameters; `kind` says what they are ("the parameter").
/// @throws moxie::numeric_error naming the tensor and its first NaN or infinity
void require_finite(const moxie::Parameters<Backend>& parameters,
                    moxie::ConstVector<Backend> values, std::string_view kind);

}  // namespace vmoe
