// What docs/policies/attacks.md takes for granted.
#pragma once

#include <moxie/robust/metrics.hpp>

#include "common.hpp"

extern const moxie::ConstIntVector<B> y;
extern const moxie::Matrix<B> x_adv;
extern const moxie::IntVector<B> standing;
