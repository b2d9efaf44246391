#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "moxie/ops/argmax.hpp"
#include "moxie/ops/kl_divergence.hpp"
#include "moxie/robust/pgd.hpp"
#include "moxie/train/batch.hpp"

namespace moxie {

/// The attack inside a training step: the last iterate of every image, whether it fools the model
/// or not, from one start. While it runs only gradients of the images are computed.
struct TrainingAttack {
  Pgd pgd{};
  /// What the code that was released with RT-ER does instead of a random start, by mistake: the
  /// first step ends at the image less eps, in all pixels, and is wasted. L-infinity alone.
  bool corner_start = false;

  friend constexpr bool operator==(const TrainingAttack&, const TrainingAttack&) = default;
};

namespace detail {
/// The model as training attacks it: evaluated, under the routes of the moment, driven up the loss
/// that the attack asks for or away from given scores. All images stay until the end.
template <Layer L>
class TrainingTarget {
 public:
  using BackendType = typename L::BackendType;
  using B = BackendType;

  explicit TrainingTarget(const L& model) : model_(&model) {
    pass_.mode = Mode::eval;
    pass_.gradients = Gradients::input;
    pass_.regularizers = false;
  }
  /// For the passes to come; they must live as long. Empty: the routers decide.
  void set_routes(std::span<const Routes<B>> routes) { pass_.routes = routes; }
  /// The loss becomes KL(softmax(clean) || softmax(scores)); empty: the attack's own.
  void flee(ConstMatrix<B> clean) { clean_ = clean; }

  B& backend() const { return model_->parameters().backend(); }
  Index input_width() const { return model_->input_width(); }
  Index classes() const { return model_->output_width(); }
  void bind(Arena<B>& arena, Index images) {
    d_ = arena.template kept<typename B::Scalar>(images, classes());
    model_->bind(arena, images, tape_);
  }
  void scores(ConstMatrix<B> x, ConstIntVector<B> /*image*/, Matrix<B> scores) {
    model_->forward(x, scores, tape_, pass_);
    last_ = scores;
  }
  void gradient(ConstMatrix<B> d_scores, Matrix<B> dx) {
    if (clean_) {
      kl_divergence(backend(), clean_, last_, Vector<B>{}, Matrix<B>{}, d_.top(last_.rows));
      d_scores = d_.top(last_.rows);
    }
    model_->backward(d_scores, dx, tape_);
  }
  typename L::Tape& tape() { return tape_; }

 private:
  const L* model_;
  Pass<B> pass_;
  typename L::Tape tape_;
  ConstMatrix<B> clean_, last_;
  Matrix<B> d_;
};

template <Backend B>
struct StartInCorner {
  LinfBall<typename B::Scalar> ball;
  ConstMatrix<B> center;
  Matrix<B> x;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    x(r, j) = ball.clip(center(r, j) - ball.eps, center(r, j));
  }
};

/// Seed of one of the attacks of a step.
template <class B>
std::uint64_t attack_seed(const Pass<B>& pass, std::uint64_t number) {
  const Random random{pass.seed, pass.step, stream_id("train/attack", number)};
  const Philox::Block drawn = random.block(0, 0);
  return (std::uint64_t{drawn.v[0]} << 32U) | drawn.v[1];
}

/// x_adv = the perturbed images of a step.
template <class M, class B = typename M::BackendType>
void perturb(const TrainingAttack& attack, M& target, const AttackBatch<B>& batch,
             Pgd::State<M>& state, Matrix<B> x_adv) {
  using T = typename B::Scalar;
  const Pgd& pgd = attack.pgd;
  if (!attack.corner_start || pgd.steps == 0) return pgd.perturb(target, batch, state, x_adv);
  target.backend().for_each(x_adv.rows, x_adv.cols,
                            StartInCorner<B>{LinfBall<T>(pgd.threat), batch.x, x_adv});
  pgd.begin(target, state, batch.x.rows);
  for (int t = 1; t < pgd.steps; ++t) pgd.iterate(target, batch, state, x_adv);
}

inline void check_training_attack(const char* who, const TrainingAttack& attack) {
  if (attack.corner_start && attack.pgd.threat.norm != Norm::linf)
    throw_config(who,
                 ": corner_start stands for a corner of the L-infinity ball, expected Norm::linf");
  check_one_start(who, "attack.pgd", attack.pgd);
  if (attack.pgd.targeted)
    throw_config(who, ": attack.pgd is targeted, expected an attack away from the labels");
}

/// The checks every objective makes before it writes.
template <Layer M, class B = typename M::BackendType>
void check_objective(const char* who, const M& model, const Batch<B>& batch, Index bound) {
  const Index images = batch.x.rows;
  if (batch.x.cols != model.input_width())
    throw_shape(who, "::accumulate: x is [", images, " x ", batch.x.cols, "], expected [images x ",
                model.input_width(), "]");
  if (batch.labels.rows != images || batch.labels.cols != model.output_width())
    throw_shape(who, "::accumulate: labels are [", batch.labels.rows, " x ", batch.labels.cols,
                "], expected [", images, " x ", model.output_width(), "]");
  if (images > bound)
    throw_shape(who, "::accumulate: the batch has ", images,
                " images, the state was made for at most ", bound);
}

/// Memory for two parts of a step of which the second begins when the first is over: the same.
template <Backend B, class Attack, class Passes>
void bind_in_turn(Arena<B>& arena, const Attack& attack, const Passes& passes) {
  Arena<B> first(Gradients::input), second(arena.gradients());
  attack(first);
  passes(second);
  const std::size_t bytes = first.peak() > second.peak() ? first.peak() : second.peak();
  const Scratch<B> memory = arena.template kept<std::byte>(static_cast<Index>(bytes));
  if (!memory) return;  // the arena measures
  Arena<B> at_first(Gradients::input, memory.data, bytes);
  Arena<B> at_second(arena.gradients(), memory.data, bytes);
  attack(at_first);
  passes(at_second);
}

/// The attack of a training step on a model, and its memory.
template <Layer M>
class StepAttack {
  using B = typename M::BackendType;

 public:
  /// `passes` binds what the passes after the attack need: they share memory with it.
  template <class Passes>
  void bind(Arena<B>& arena, const TrainingAttack& attack, const M& model, Index images,
            const Passes& passes) {
    y_ = arena.template kept<std::int32_t>(images);
    target_.emplace(model);
    bind_in_turn(
        arena,
        [&](Arena<B>& a) {
          attack.pgd.bind(a, *target_, images, pgd_);
          target_->bind(a, images);
        },
        passes);
  }
  /// Takes the classes of a batch: of each image that of the largest label.
  void begin(const Batch<B>& batch) {
    y_.size = batch.x.rows;
    argmax_rows(target_->backend(), batch.labels, y_);
  }
  /// x_adv = the perturbed images of that batch; `number` is the attack's in its step.
  void operator()(const TrainingAttack& attack, const Batch<B>& batch, const Pass<B>& pass,
                  std::uint64_t number, Matrix<B> x_adv) {
    perturb(attack, *target_,
            AttackBatch<B>{.x = batch.x,
                           .y = y_,
                           .seed = attack_seed(pass, number),
                           .first_image = pass.first_token},
            pgd_, x_adv);
  }
  TrainingTarget<M>& target() { return *target_; }
  ConstIntVector<B> y() const { return y_; }

 private:
  std::optional<TrainingTarget<M>> target_;
  Pgd::State<TrainingTarget<M>> pgd_;
  IntVector<B> y_;
};

/// Numbers of a training step on the host. Blocks.
template <Backend B>
std::vector<typename B::Scalar> read_vector(B& backend, Vector<B> v) {
  std::vector<typename B::Scalar> host(static_cast<std::size_t>(v.size));
  if (!host.empty())
    backend.copy_to_host(host.data(), v.data, host.size() * sizeof(typename B::Scalar));
  return host;
}
/// The same of losses + beta * divergences.
template <Backend B>
std::vector<typename B::Scalar> read_sum(B& backend, Vector<B> losses, double beta,
                                         Vector<B> divergences) {
  using T = typename B::Scalar;
  std::vector<T> sum = read_vector(backend, losses);
  const std::vector<T> more = read_vector(backend, divergences);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<T>(beta) * more[i];
  return sum;
}
}  // namespace detail

}  // namespace moxie
