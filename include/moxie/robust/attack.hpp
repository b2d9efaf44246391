#pragma once

#include <utility>
#include <vector>

#include "moxie/core/memory.hpp"
#include "moxie/ops/argmax.hpp"
#include "moxie/robust/attack_data.hpp"
#include "moxie/robust/target.hpp"

/// An Attack looks for images that a target gets wrong, inside a Threat.
///
/// A policy is a plain struct of hyper-parameters. What it needs besides is a `State<M>`.
///
/// Members:
///   template <AttackTarget M> struct State;
///   void bind(Arena<B>&, const M&, Index images, State<M>&) const;
///   void run(M&, const AttackBatch<B>&, State<M>&, Matrix<B> x_adv, IntVector<B> standing) const;
///
/// Laws:
///  * `run` looks at the points i with standing[i] != 0 alone. Those it breaks get their row of
///    x_adv and standing[i] = 0; no other row of x_adv or element of standing is written;
///  * a row that is written lies inside ball and box, and the target's class for it is not y[i];
///  * randomness is counted by the image's number in the whole set (first_image + i): the result
///    depends neither on threads nor on how the set is split into batches;
///  * `bind` only moves pointers; a `run` allocates nothing;
///  * a wrong shape is a shape_error, a wrong hyper-parameter a config_error, before anything is
///    written. So is a label that is no class, where the backend's memory is the host's; on a
///    device labels are not checked.
namespace moxie {

/// What is attacked, in the backend's memory.
template <class B>
struct AttackBatch {
  ConstMatrix<B> x;            ///< [images, D] clean, inside the box
  ConstIntVector<B> y;         ///< [images] classes, 0 to the model's last
  ConstIntVector<B> target{};  ///< [images] classes that a targeted attack wants to see
  std::uint64_t seed = 0;
  Index first_image = 0;  ///< number of the first image in the whole set
};

template <class A, class M>
concept Attack = AttackTarget<M> && std::copyable<A> &&
    requires(const A& attack, Arena<typename M::BackendType>& arena, M& target, const M& known,
             Index images, typename A::template State<M>& state,
             const AttackBatch<typename M::BackendType>& batch,
             Matrix<typename M::BackendType> x_adv, IntVector<typename M::BackendType> standing) {
  attack.bind(arena, known, images, state);
  attack.run(target, batch, state, x_adv, standing);
};

namespace detail {
template <Backend B>
struct GatherImages {
  static constexpr bool one_level = true;
  ConstIntVector<B> image;
  ConstMatrix<B> from;
  Matrix<B> to;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const { to(r, j) = from(image[r], j); }
};

template <Backend B>
struct CopyActive {
  static constexpr bool one_level = true;
  ConstIntVector<B> image;
  ConstMatrix<B> from;  // by image, as to
  Matrix<B> to;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    to(image[r], j) = from(image[r], j);
  }
};

/// The points of a batch that an attack still works on, in their order.
template <Backend B>
class ActivePoints {
 public:
  void bind(Arena<B>& arena, Index images) {
    image_ = arena.template kept<std::int32_t>(images);
    host_.resize(static_cast<std::size_t>(images));
  }
  /// All of `images`.
  void all(B& b, Index images) {
    for (Index i = 0; i < images; ++i)
      host_[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
    upload(b, images, images);
  }
  /// Those with a flag that is not 0. Blocks.
  void select(B& b, ConstIntVector<B> flags) {
    if (flags.size > 0)
      b.copy_to_host(host_.data(), flags.data,
                     static_cast<std::size_t>(flags.size) * sizeof(std::int32_t));
    Index count = 0;
    for (Index i = 0; i < flags.size; ++i)
      if (host_[static_cast<std::size_t>(i)] != 0)
        host_[static_cast<std::size_t>(count++)] = static_cast<std::int32_t>(i);
    upload(b, count, flags.size);
  }
  Index count() const { return count_; }
  bool empty() const { return count_ == 0; }
  /// [count] number of each in the batch, ascending.
  ConstIntVector<B> image() const { return {image_.data, count_}; }
  /// The rows of the points in `from`: from itself while nobody left, else copied to `to`.
  ConstMatrix<B> rows(B& b, ConstMatrix<B> from, Matrix<B> to) const {
    if (count_ == images_) return from.top(images_);
    b.for_each(count_, from.cols, GatherImages<B>{image(), from, to});
    return to.top(count_);
  }

 private:
  void upload(B& b, Index count, Index images) {
    count_ = count;
    images_ = images;
    if (count > 0)
      b.copy_from_host(image_.data, host_.data(),
                       static_cast<std::size_t>(count) * sizeof(std::int32_t));
  }
  IntVector<B> image_;
  std::vector<std::int32_t> host_;
  Index count_ = 0;
  Index images_ = 0;
};

/// The checks every attack makes before it writes anything.
template <AttackTarget M, class B = typename M::BackendType>
void check_attack(const char* who, const M& target, const AttackBatch<B>& batch, Index bound,
                  Matrix<B> x_adv, const IntVector<B>* standing) {
  const Index images = batch.x.rows;
  if (batch.x.cols != target.input_width())
    throw_shape(who, ": x is [", images, " x ", batch.x.cols, "], expected [images x ",
                target.input_width(), "]");
  if (images > bound)
    throw_shape(who, ": the batch has ", images, " images, the state was made for at most ", bound);
  if (batch.y.size != images)
    throw_shape(who, ": y has ", batch.y.size, " entries, expected ", images, ", one an image");
  if (batch.target && batch.target.size != images)
    throw_shape(who, ": target has ", batch.target.size, " entries, expected ", images, " or none");
  if (x_adv.rows != images || x_adv.cols != batch.x.cols)
    throw_shape(who, ": x_adv is [", x_adv.rows, " x ", x_adv.cols, "], expected [", images, " x ",
                batch.x.cols, "]");
  if (standing != nullptr && standing->size != images)
    throw_shape(who, ": standing has ", standing->size, " entries, expected ", images);
  const ConstIntVector<B> flags =
      standing != nullptr ? ConstIntVector<B>(*standing) : ConstIntVector<B>{};
  check_labels<B>(who, "batch.y", batch.y, target.classes(), flags);
  check_labels<B>(who, "batch.target", batch.target, target.classes(), flags);
}

template <Backend B>
struct CorrectPoint {
  static constexpr bool one_level = true;
  ConstMatrix<B> scores;
  ConstIntVector<B> y;
  IntVector<B> standing;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    standing[r] = is_largest(scores.row(r), scores.cols, y[r]) ? 1 : 0;
  }
};
}  // namespace detail

/// A target, an attack and the memory of both.
///
///   RunAttack attack{LayerTarget{model}, Pgd{.steps = 50}, 64};  // images
///   attack.find_correct(batch, standing);         // what the model gets right
///   attack(batch, x_adv, standing);               // and still does
template <AttackTarget M, Attack<M> A>
class RunAttack {
  using B = typename M::BackendType;

 public:
  /// Room for batches of up to `images`.
  RunAttack(M target, A attack, Index images)
      : target_(std::move(target)), attack_(std::move(attack)) {
    if (images < 0) throw_shape("moxie::RunAttack: images is ", images, ", expected >= 0");
    Arena<B> measure(Gradients::input);
    bind(measure, images);
    memory_ = Memory<B>(target_.backend(), measure.peak());
    Arena<B> arena(Gradients::input, memory_.data(), memory_.bytes());
    bind(arena, images);
  }

  /// See Attack::run.
  /// @throws shape_error for labels of standing points that are no classes and, if the attack keeps
  /// to a box, for images outside it; neither is checked on a device
  void operator()(const AttackBatch<B>& batch, Matrix<B> x_adv, IntVector<B> standing) {
    detail::check_attack_data<B>("moxie::RunAttack", attack_, batch, target_.classes(),
                                 ConstIntVector<B>(standing));
    attack_.run(target_, batch, state_, x_adv, standing);
  }
  /// standing[i] = 1 where the class of x[i] is y[i], else 0, also where a score is NaN.
  /// @throws shape_error for a label that is no class; not checked on a device
  void find_correct(const AttackBatch<B>& batch, IntVector<B> standing) {
    find_correct(batch.x, batch.y, standing);
  }
  /// The same of other images of the batch.
  void find_correct(ConstMatrix<B> x, ConstIntVector<B> y, IntVector<B> standing) {
    if (x.rows > scores_.rows || y.size != x.rows || standing.size != x.rows)
      throw_shape("moxie::RunAttack::find_correct: x has ", x.rows, " rows, y ", y.size,
                  " and standing ", standing.size, " entries, expected as many, and at most ",
                  scores_.rows);
    detail::check_labels<B>("moxie::RunAttack::find_correct", "y", y, target_.classes());
    B& b = target_.backend();
    points_.all(b, x.rows);
    target_.scores(x, points_.image(), scores_.top(x.rows));
    b.for_each(x.rows, detail::CorrectPoint<B>{scores_, y, standing});
  }

  M& target() { return target_; }
  const A& attack() const { return attack_; }
  typename A::template State<M>& state() { return state_; }
  const typename A::template State<M>& state() const { return state_; }
  std::size_t bytes() const noexcept { return memory_.bytes(); }

 private:
  void bind(Arena<B>& arena, Index images) {
    scores_ = arena.template kept<typename B::Scalar>(images, target_.classes());
    points_.bind(arena, images);
    attack_.bind(arena, target_, images, state_);
    target_.bind(arena, images);
  }
  M target_;
  A attack_;
  Memory<B> memory_;
  Matrix<B> scores_;
  detail::ActivePoints<B> points_;
  typename A::template State<M> state_;
};

}  // namespace moxie
