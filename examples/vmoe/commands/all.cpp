#include "commands/all.hpp"

namespace vmoe {

Commands all_commands() {
  Commands all;
  all.push_back(train_command());
  all.push_back(eval_command());
  all.push_back(stability_command());
  all.push_back(report_command());
  all.push_back(attack_command());
  all.push_back(certify_command());
  all.push_back(dual_command());
  all.push_back(upcycle_command());
  return all;
}

}  // namespace vmoe
