// What every page takes for granted (docs/policies/README.md). Nothing is linked, so nothing is defined.
#pragma once

#include <moxie/moxie.hpp>

using B = moxie::CpuBackend<float>;
extern B cpu;
extern const moxie::ConstMatrix<B> x;

inline auto make_layer_of_page() {
  return moxie::MoeLayer{cpu,
                         {.width = 64, .experts = 8},
                         moxie::TopKRouter{},
                         moxie::CapacityFactor{},
                         moxie::FeedForward<moxie::Gelu>{}};
}
extern const decltype(make_layer_of_page()) layer, model;
