#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <string_view>
#include <variant>

#include "moxie/core/error.hpp"

/// Learning rates as functions of the step, which counts from 0. All but the cyclic one warm up
/// linearly, peak * step / warmup; each is a value and a pure function.
namespace moxie {

namespace detail {
inline void check_schedule(const char* who, double peak, double end, std::uint64_t warmup,
                           std::uint64_t total) {
  if (!(peak > 0)) throw_config(who, ": peak must be > 0, got ", peak);
  if (!(end >= 0)) throw_config(who, ": end must be >= 0, got ", end);
  if (warmup > total)
    throw_config(who, ": warmup is ", warmup, " steps, expected at most total, which is ", total);
}
inline double warm_up(double peak, std::uint64_t step, std::uint64_t warmup) {
  return peak * static_cast<double>(step) / static_cast<double>(warmup);
}
/// Share of the decay that is over; step in [warmup, total).
inline double decay_progress(std::uint64_t step, std::uint64_t warmup, std::uint64_t total) {
  return static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
}
}  // namespace detail

/// `peak` after the warm-up, for ever.
/// Errors: config_error if peak is not positive.
struct ConstantSchedule {
  double peak = 0;
  std::uint64_t warmup = 0;

  double operator()(std::uint64_t step) const {
    detail::check_schedule("moxie::ConstantSchedule", peak, 0, 0, 0);
    return step < warmup ? detail::warm_up(peak, step, warmup) : peak;
  }
  friend bool operator==(const ConstantSchedule&, const ConstantSchedule&) = default;
};

/// From `peak` at `warmup` to `end` at `total` on a line, `end` from there on.
/// Errors: config_error if peak is not positive, end negative, or warmup above total.
struct LinearSchedule {
  double peak = 0;
  double end = 0;
  std::uint64_t warmup = 0;
  std::uint64_t total = 0;

  double operator()(std::uint64_t step) const {
    detail::check_schedule("moxie::LinearSchedule", peak, end, warmup, total);
    if (step >= total) return end;
    if (step < warmup) return detail::warm_up(peak, step, warmup);
    return peak + (end - peak) * detail::decay_progress(step, warmup, total);
  }
  friend bool operator==(const LinearSchedule&, const LinearSchedule&) = default;
};

/// From `peak` at `warmup` to `end` at `total` on half a cosine, `end` from there on.
/// Errors: as LinearSchedule.
struct CosineSchedule {
  double peak = 0;
  double end = 0;
  std::uint64_t warmup = 0;
  std::uint64_t total = 0;

  double operator()(std::uint64_t step) const {
    detail::check_schedule("moxie::CosineSchedule", peak, end, warmup, total);
    if (step >= total) return end;
    if (step < warmup) return detail::warm_up(peak, step, warmup);
    const double angle = 3.14159265358979323846 * detail::decay_progress(step, warmup, total);
    return end + (peak - end) * 0.5 * (1 + std::cos(angle));
  }
  friend bool operator==(const CosineSchedule&, const CosineSchedule&) = default;
};

/// peak / sqrt(1 + (step - warmup) / timescale), times (total - step) / cooldown in the last
/// `cooldown` steps, 0 from `total` on. Without cool-down it goes on for ever and `total` means
/// nothing.
/// Errors: config_error if peak or timescale is not positive, or warmup + cooldown above total when
/// there is a cool-down.
/// Source: Zhai et al., "Scaling Vision Transformers", CVPR 2022, as in big_vision.
struct RsqrtSchedule {
  double peak = 0;
  std::uint64_t warmup = 0;
  double timescale = 10000;
  std::uint64_t cooldown = 0;
  std::uint64_t total = 0;

  double operator()(std::uint64_t step) const {
    detail::check_schedule("moxie::RsqrtSchedule", peak, 0, 0, 0);
    if (!(timescale > 0))
      throw_config("moxie::RsqrtSchedule: timescale must be > 0, got ", timescale);
    if (cooldown > 0 && (warmup > total || cooldown > total - warmup))
      throw_config("moxie::RsqrtSchedule: warmup and cooldown are ", warmup, " and ", cooldown,
                   " steps, expected together at most total, which is ", total);
    if (step < warmup) return detail::warm_up(peak, step, warmup);
    const double rate = peak / std::sqrt(1 + static_cast<double>(step - warmup) / timescale);
    if (cooldown == 0) return rate;
    if (step >= total) return 0;
    const std::uint64_t left = total - step;
    if (left >= cooldown) return rate;
    return rate * static_cast<double>(left) / static_cast<double>(cooldown);
  }
  friend bool operator==(const RsqrtSchedule&, const RsqrtSchedule&) = default;
};

/// Triangles: from `end` to `peak` on a line in `half_cycle` steps, back in as many, and again, for
/// ever. It begins at `end`.
/// Errors: config_error if peak is not positive, end negative, or half_cycle 0.
/// Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017; "triangular" of
/// PyTorch's CyclicLR, for the rate alone.
struct CyclicSchedule {
  double peak = 0;
  double end = 0;
  std::uint64_t half_cycle = 0;

  double operator()(std::uint64_t step) const {
    detail::check_schedule("moxie::CyclicSchedule", peak, end, 0, 0);
    if (half_cycle == 0) throw_config("moxie::CyclicSchedule: half_cycle must be > 0, got 0");
    const std::uint64_t since = step % half_cycle;
    const bool rises = step / half_cycle % 2 == 0;
    const std::uint64_t above = rises ? since : half_cycle - since;
    return end + (peak - end) * static_cast<double>(above) / static_cast<double>(half_cycle);
  }
  friend bool operator==(const CyclicSchedule&, const CyclicSchedule&) = default;
};

/// Some schedule, chosen at run time.
class Schedule {
 public:
  using Any =
      std::variant<ConstantSchedule, LinearSchedule, CosineSchedule, RsqrtSchedule, CyclicSchedule>;

  /// Errors: config_error if the schedule makes no sense, here and not at the first step.
  template <class S>
  requires std::constructible_from<Any, S> Schedule(
      S schedule)  // NOLINT(google-explicit-constructor): any schedule is a Schedule
      : schedule_(schedule) {
    (*this)(0);
  }
  double operator()(std::uint64_t step) const {
    return std::visit([step](const auto& schedule) { return schedule(step); }, schedule_);
  }
  const Any& get() const noexcept { return schedule_; }

  friend bool operator==(const Schedule&, const Schedule&) = default;

 private:
  Any schedule_;
};

/// Everything that some schedule asks for; see there.
struct ScheduleConfig {
  double peak = 0;
  double end = 0;
  std::uint64_t warmup = 0;
  std::uint64_t total = 0;
  double timescale = 10000;
  std::uint64_t cooldown = 0;
  std::uint64_t half_cycle = 0;
};

/// The names that `make_schedule` knows.
inline constexpr std::string_view schedule_names = "constant, linear, cosine, rsqrt, cyclic";

/// A schedule by name. Settings that it has no use for are ignored.
/// Errors: config_error for a name that is none of `schedule_names`, or settings that make no
/// sense.
inline Schedule make_schedule(std::string_view name, const ScheduleConfig& c) {
  if (name == "constant") return Schedule(ConstantSchedule{c.peak, c.warmup});
  if (name == "linear") return Schedule(LinearSchedule{c.peak, c.end, c.warmup, c.total});
  if (name == "cosine") return Schedule(CosineSchedule{c.peak, c.end, c.warmup, c.total});
  if (name == "rsqrt")
    return Schedule(RsqrtSchedule{c.peak, c.warmup, c.timescale, c.cooldown, c.total});
  if (name == "cyclic") return Schedule(CyclicSchedule{c.peak, c.end, c.half_cycle});
  throw_config("moxie::make_schedule: there is no schedule '", name,
               "', expected one of: ", schedule_names);
}

}  // namespace moxie
