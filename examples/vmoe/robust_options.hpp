#pragma once

#include "moxie/robust/dual_model.hpp"
#include "moxie/train/joint_dual.hpp"
#include "objective.hpp"
#include "options.hpp"

namespace vmoe {

/// A number at least 0, or a quotient of two: "8/255". `name`: what errors call it.
/// @throws moxie::config_error
double fraction_of(std::string_view name, const std::string& text);

/// The same of a distance between pixels in [0, 1], in the L-infinity norm: at most 1.
/// @throws moxie::config_error
double pixel_fraction_of(std::string_view name, const std::string& text);

/// Whether the objective attacks images, so that training takes pixels in [0, 1].
bool is_adversarial(const Options& options);
/// Whether two models are trained as one.
bool is_dual(const Options& options);

/// What the options say about robust training, in the library's words.
/// @throws moxie::config_error for names that there are not, and options that make no sense
moxie::Pgd training_pgd(const Options& options);
TrainObjective objective_of(const Options& options);
/// Of the lower level of joint training.
moxie::RtEr rt_er_of(const Options& options);
moxie::DualOptions dual_options_of(const Options& options);
moxie::train::JointOptions joint_options_of(const Options& options);
void check_robust(const Options& options);

}  // namespace vmoe
