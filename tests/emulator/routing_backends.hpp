#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "emulator/emulated.hpp"
#include "moxie/testing/law_report.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"

/// The tests of routing's kernels: an operation on EmulatedBackend, which takes its twins, against
/// the generic form on other backends.
namespace moxie::test {

inline constexpr std::uint64_t schedules[] = {0, 1};

template <class T>
std::vector<T> scalars(const std::vector<double>& values) {
  std::vector<T> out;
  for (const double v : values) out.push_back(static_cast<T>(v));
  return out;
}
/// 0 for about one in `one_in`, and empty for 0.
inline std::vector<std::int32_t> random_mask(testing::detail::Draw& draw, Index n, Index one_in) {
  std::vector<std::int32_t> out;
  if (one_in == 0) return out;
  for (Index i = 0; i < n; ++i) out.push_back(draw.from(1, one_in) == 1 ? 0 : 1);
  return out;
}
template <class B>
VectorView<const std::int32_t, typename B::Space> view_of(const Buffer<std::int32_t, B>& buffer) {
  if (buffer.size() == 0) return {};
  return buffer.view();
}

}  // namespace moxie::test
