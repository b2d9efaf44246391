// What docs/policies/optimizers_and_objectives.md takes for granted.
#pragma once

#include <moxie/capacity/dropless.hpp>
#include <moxie/expert/networks.hpp>
#include <moxie/nn/mlp.hpp>
#include <moxie/train/batch.hpp>
#include <moxie/train/schedule.hpp>

#include "common.hpp"

extern const moxie::Scope<B> root;
extern const moxie::CosineSchedule schedule;
extern const std::uint64_t t;
extern const moxie::Batch<B> batch;
extern const moxie::ConstMatrix<B> labels;

struct MakeExpert {
  moxie::Mlp<B> operator()(const moxie::Scope<B>& scope) const { return {scope, 64, 32, 10}; }
};
inline auto make_mixture(const moxie::Scope<B>& scope) {
  return moxie::MoeLayer{scope, moxie::MoeShape{.width = 64, .experts = 4},
                         moxie::TopKRouter{.k = 1}, moxie::Dropless{},
                         moxie::Networks{MakeExpert{}, 10}};
}
extern const decltype(make_mixture(root)) mixture;
