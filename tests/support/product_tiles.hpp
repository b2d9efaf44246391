#pragma once

#include <doctest/doctest.h>

#include "moxie/backend/device/product_twins.hpp"
#include "moxie/core/bf16.hpp"

/// The tiles of the kernels of products of experts, by the names that tests give them: under nvcc on the
/// GPU, elsewhere in the emulator.
namespace moxie::test {

using ExactSmall = detail::device::ExactProducts<float>::Small;
using ExactLarge = detail::device::ExactProducts<float>::Large;
using ExactDouble = detail::device::ExactProducts<double>::Small;
using TfSmall = detail::device::MatrixProducts<float>::Small;
using TfLarge = detail::device::MatrixProducts<float>::Large;
using BfSmall = detail::device::MatrixProducts<bf16>::Small;
using BfLarge = detail::device::MatrixProducts<bf16>::Large;

}  // namespace moxie::test

TYPE_TO_STRING_AS("small exact tiles", moxie::test::ExactSmall);
TYPE_TO_STRING_AS("large exact tiles", moxie::test::ExactLarge);
TYPE_TO_STRING_AS("tiles of double", moxie::test::ExactDouble);
TYPE_TO_STRING_AS("small tiles of tf32", moxie::test::TfSmall);
TYPE_TO_STRING_AS("large tiles of tf32", moxie::test::TfLarge);
TYPE_TO_STRING_AS("small tiles of bf16", moxie::test::BfSmall);
TYPE_TO_STRING_AS("large tiles of bf16", moxie::test::BfLarge);
