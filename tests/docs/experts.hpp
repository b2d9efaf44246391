// What docs/policies/experts.md takes for granted.
#pragma once

#include "common.hpp"

extern const moxie::Scope<B> scope;
