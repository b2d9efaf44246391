#pragma once

#include <string>
#include <vector>

#include "vmoe_report/fake_run.hpp"

namespace fake {

/// One model of a comparison; without blocks it is dense.
struct ComparedModel {
  std::string name = "plain";
  int experts = 8;
  int choices = 2;
  bool ragged = false;  ///< patches have different numbers of experts, some none
  std::vector<int> moe_blocks{1, 3};
  int patch = 4;
  int every = 8;  ///< a patch changes its first expert every so many levels
};

struct Comparison {
  std::vector<ComparedModel> models{{}, {.name = "consistent", .every = 20}};
  int levels = 20, images = 3, side = 32, channels = 3;
  std::vector<std::string> classes{"airplane", "automobile", "bird"};
};

/// Figures as those of `compare_models`. Patch p of a model goes to first expert
/// (p + (level + p) / every - p / every) mod experts: every change of it can be counted.
Json comparison(const Comparison& wanted);

/// Patches of a model whose first expert at a level is not the one of level 0.
int changed_patches(const Comparison& wanted, const ComparedModel& model, int level);

}  // namespace fake
