#pragma once

#include <string>
#include <vector>

#include "moxie/robust/pgd.hpp"
#include "moxie/robust/threat.hpp"

namespace vmoe {

/// An attack on whole models by name, with its hyper-parameters.
struct AttackChoice {
  std::string name = "auto_attack";
  moxie::Threat threat{};  ///< of pixels in [0, 1]
  int steps = 0;           ///< of pgd, vmoe_pgd, apgd, fab; queries of square; 0: its usual number
  double step = 0;         ///< of pgd; 0: a quarter of eps
  int restarts = 1;        ///< of pgd and apgd
};

/// The names there are, in the order in which help lists them.
const std::vector<std::string>& attack_names();

/// The choice with numbers in place of zeros: the usual steps, and the step size of pgd and
/// vmoe_pgd; other attacks find their own.
AttackChoice resolved(AttackChoice choice);
/// Of Square among the members of auto_attack; the others have the resolved choice's steps.
int auto_attack_queries(const AttackChoice& resolved_choice);

/// PGD within the budget: what RA-E and RA-R are measured with, and `pgd` itself.
/// `steps` as in AttackChoice, 50 if that is of another attack.
moxie::Pgd part_attack(const AttackChoice& choice);

/// Checks the choice without a model.   @throws moxie::config_error
void check(const AttackChoice& choice);

}  // namespace vmoe
