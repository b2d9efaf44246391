#pragma once

/// Checks of the laws that the concepts of policies state, for your own policies too. Each draws
/// random cases from a seed and returns a LawReport:
///
///   const moxie::testing::LawReport report = moxie::testing::check_router_laws(backend,
///   MyRouter{.k = 2}); CHECK_MESSAGE(report.passed, report.message);
///
/// Gradients are compared with central differences where the backend's scalar is double. Layers:
/// gradcheck.hpp.

#include "moxie/testing/capacity_laws.hpp"
#include "moxie/testing/dispatcher_laws.hpp"
#include "moxie/testing/expert_laws.hpp"
#include "moxie/testing/regularizer_laws.hpp"
#include "moxie/testing/router_laws.hpp"
