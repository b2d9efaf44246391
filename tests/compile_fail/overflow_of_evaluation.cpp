// expects: the overflow policy is one for training and evaluation
#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/next_choice.hpp"
#include "moxie/capacity/overflow.hpp"
#include "moxie/capacity/train_eval.hpp"

using namespace moxie;

int main() {
#ifdef MOXIE_FAIL
  const TrainEval capacity{FixedCapacity{2}, WithOverflow{NextChoice{}, FixedCapacity{3}}};
#else
  const WithOverflow capacity{NextChoice{}, TrainEval{FixedCapacity{2}, FixedCapacity{3}}};
#endif
  return capacity.slots({.tokens = 8, .mode = Mode::eval}) == 3 ? 0 : 1;
}
