#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "moxie/robust/metrics.hpp"
#include "moxie/robust/threat.hpp"
#include "pixel_model.hpp"

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

/// An attack and all memory for batches of images; the model must outlive it.
class Attacker {
 public:
  using Batch = moxie::AttackBatch<Backend>;
  /// What a member of the attack did to the last batch.
  struct Member {
    std::string_view name;
    Index standing = 0;  ///< points still classified right after it
  };
  virtual ~Attacker() = default;

  /// Points right before, and before and after; as moxie::evaluate_attack.
  virtual moxie::RobustCount run(const Batch& batch, moxie::Matrix<Backend> x_adv,
                                 moxie::IntVector<Backend> standing) = 0;
  /// In their order; of a single attack itself.
  virtual std::vector<Member> members() const = 0;
  /// Those of an ensemble that are through with the batch that `run` is at; none of a single attack.
  virtual std::vector<Member> finished() const = 0;
  /// Scores [images, classes] of other images; their routes for a visitor.
  virtual void scores(moxie::ConstMatrix<Backend> x, moxie::Matrix<Backend> scores) = 0;
  virtual void visit(moxie::RoutingVisitor<Backend>& visitor) = 0;
};

/// @throws moxie::config_error for an unknown name, or for what the attack does not have
std::unique_ptr<Attacker> make_attacker(const PixelModel& model, const AttackChoice& choice,
                                        Index images);

/// Checks the choice without a model.   @throws moxie::config_error
void check(const AttackChoice& choice);

}  // namespace vmoe
