#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

#include <cstddef>
#include <cstdint>

#include "moxie/core/view.hpp"

/// Rows read and written 16 bytes at a time where they lie so.
namespace moxie::detail::device {

/// Elements that one access takes.
template <class T>
inline constexpr int pack_width = 16 / static_cast<int>(sizeof(T));

template <class T, int Width>
struct alignas(static_cast<std::size_t>(Width) * sizeof(T)) Pack {
  T value[static_cast<std::size_t>(Width)];
};
template <int Width, class T>
MOXIE_DEVICE Pack<T, Width> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, Width>*>(from);
}
template <class T, int Width>
MOXIE_DEVICE void store_pack(T* to, const Pack<T, Width>& pack) {
  *reinterpret_cast<Pack<T, Width>*>(to) = pack;
}

/// Whether all rows of x, up to `cols` columns, can be read and written in packs. Looks at the
/// address alone.
template <class T, class Space>
bool packs(const MatrixView<T, Space>& x) {
  constexpr Index width = pack_width<T>;
  return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.cols % width == 0 &&
         (x.stride % width == 0 || x.rows <= 1);
}

}  // namespace moxie::detail::device

#endif
