#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace vmoe {

/// A self-contained page about an attack: its figures, and points that fell with their
/// perturbations, classes and routes before and after. `data` is AttackPictures::page.
std::string attack_report(const nlohmann::json& data);

}  // namespace vmoe
