#pragma once

#include "options.hpp"

namespace vmoe {

/// What a router chooses: experts for a token, tokens for an expert, or nothing (weighted means).
enum class RouterFamily { token_choice, expert_choice, soft };
RouterFamily family_of(const Options& options);

/// Mean number of experts that a token passes through: K, or the capacity factor where experts choose or slots are soft.
double active_experts(const Options& options);

/// Hidden width of a perceptron that computes as much as the experts of a token.
Index twin_hidden(const Options& options, Index expert_hidden);

/// Options that `given` does not name become what the paper of the router and of --prc has: noise and
/// losses, and where experts choose or slots are soft, groups of one image and a capacity factor of K,
/// so that as much is computed as with K choices.
void take_router_defaults(Options& options, const OptionNames& given);

}  // namespace vmoe
