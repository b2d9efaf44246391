#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "attack_choice.hpp"
#include "moxie/robust/metrics.hpp"
#include "pixel_model.hpp"

namespace vmoe {

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

}  // namespace vmoe
