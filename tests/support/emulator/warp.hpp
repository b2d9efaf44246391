#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "support/emulator/place.hpp"
#include "support/emulator/sanitizers.hpp"

namespace moxie::emulator {

/// What a lane says of itself in an error.
inline std::string described(std::string_view call, unsigned mask, Place place) {
  char hexadecimal[16];
  std::snprintf(hexadecimal, sizeof hexadecimal, "0x%08x", mask);
  return std::string(call)
      .append(" with mask ")
      .append(hexadecimal)
      .append(" at ")
      .append(place.text());
}

/// One call of a warp function by the lanes of its mask: what each of them brought.
struct WarpCall {
  std::string_view name;
  unsigned mask = 0;
  Place place{};
  unsigned arrived = 0;
  struct alignas(16) Value {
    std::byte bytes[32];
  };
  std::array<Value, 32> values{};
  Token order{};

  bool complete() const { return arrived == mask; }

  template <class V>
  void bring(unsigned lane, const V& value) {
    static_assert(std::is_trivially_copyable_v<V> && sizeof(V) <= sizeof(Value));
    std::memcpy(values[lane].bytes, &value, sizeof value);
    arrived |= 1U << lane;
  }
  /// What `lane` brought; to be called quietly. @throws Error if it takes no part in the call.
  template <class V>
  V value(unsigned lane) const {
    if ((mask >> lane & 1U) == 0) {
      throw Error(described(name, mask, place)
                      .append(" reads lane ")
                      .append(std::to_string(lane))
                      .append(", which is outside the mask"));
    }
    V v;
    std::memcpy(&v, values[lane].bytes, sizeof v);
    return v;
  }
};

/// The calls of one warp that wait for some of their lanes.
class Warp {
 public:
  explicit Warp(unsigned lanes) : alive_(lanes >= 32 ? ~0U : (1U << lanes) - 1) {}

  /// The call that `lane` begins or joins. @throws Error if it could never complete.
  std::shared_ptr<WarpCall> enter(unsigned lane, std::string_view name, unsigned mask,
                                  Place place) {
    if ((mask >> lane & 1U) == 0) {
      throw Error(described(name, mask, place)
                      .append(" is called by lane ")
                      .append(std::to_string(lane))
                      .append(", which is outside the mask"));
    }
    if ((mask & ~alive_) != 0) throw Error(missing(mask & ~alive_, described(name, mask, place)));
    for (const std::shared_ptr<WarpCall>& other : open_) {
      const bool here = other->place == place && other->name == name;
      if (here && other->mask == mask) return other;
      const bool waits_for_me = (other->mask >> lane & 1U) != 0;
      const unsigned awaited = other->arrived & mask;
      if (here ? waits_for_me || awaited != 0 : waits_for_me && awaited != 0) {
        throw Error(std::string("lanes of a warp disagree: lane ")
                        .append(std::to_string(lane))
                        .append(" calls ")
                        .append(described(name, mask, place))
                        .append(", lane ")
                        .append(std::to_string(std::countr_zero(other->arrived)))
                        .append(" ")
                        .append(described(other->name, other->mask, other->place)));
      }
    }
    auto call = std::make_shared<WarpCall>();
    call->name = name;
    call->mask = mask;
    call->place = place;
    open_.push_back(call);
    return call;
  }
  void close(const WarpCall& call) {
    std::erase_if(open_, [&](const std::shared_ptr<WarpCall>& c) { return c.get() == &call; });
  }
  /// A lane leaves the kernel. @throws Error if others wait for it.
  void leave(unsigned lane) {
    alive_ &= ~(1U << lane);
    for (const std::shared_ptr<WarpCall>& call : open_) {
      if ((call->mask >> lane & 1U) != 0) {
        throw Error(missing(1U << lane, described(call->name, call->mask, call->place)));
      }
    }
  }

 private:
  static std::string missing(unsigned lanes, std::string call) {
    return call.append(" names lane ")
        .append(std::to_string(std::countr_zero(lanes)))
        .append(", which has left the kernel or never was");
  }

  std::vector<std::shared_ptr<WarpCall>> open_;
  unsigned alive_;
};

}  // namespace moxie::emulator
