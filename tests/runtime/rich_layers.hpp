#pragma once

#include <string>
#include <vector>

#include "runtime/made_layers.hpp"

/// What the tests of properties of whole layers share.
namespace moxie::test {

/// Every loss that any routing has.
inline std::vector<RegularizerChoice> some_losses() {
  return {{.name = "importance", .weight = 0.3},
          {.name = "local_entropy", .weight = 0.1},
          {.name = "mutual_information", .weight = 0.1}};
}
/// A router with what it can do: noise, two choices.
inline MoeConfig rich_config(std::string_view router) {
  MoeConfig c = small_config(router);
  c.shape.seed = 3;
  if (!chooses_tokens_or_mixes(router)) c.router.k = 2;
  if (takes_noise(router)) c.router.noise = 0.5;
  c.regularizers = some_losses();
  return c;
}
template <class B>
std::vector<std::string> token_choices() {
  std::vector<std::string> out;
  for (const std::string& name : router_names<B>())
    if (!experts_choose(name)) out.push_back(name);
  return out;
}
/// Of token t's assignments a: f(a).
template <class T, class F>
void for_each_assignment(const Ran<T>& ran, Index t, const F& f) {
  const Index k = ran.shape.choices;
  const Index first = ran.first.empty() ? t * k : ran.first[static_cast<std::size_t>(t)];
  const Index last = ran.first.empty() ? (t + 1) * k : ran.first[static_cast<std::size_t>(t) + 1];
  for (Index a = first; a < last; ++a) f(static_cast<std::size_t>(a));
}

}  // namespace moxie::test
