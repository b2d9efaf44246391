#pragma once

#include <cmath>
#include <vector>

#include "moxie/layer/tape.hpp"
#include "moxie/nn/mlp.hpp"
#include "moxie/robust/attack.hpp"
#include "moxie/robust/threat.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"
#include "support/parameters.hpp"

namespace moxie::test {

/// z = x W + b with given numbers; W [D, C] row-major.
template <class B>
Linear<B> linear_model(B& backend, Index in, const std::vector<double>& kernel,
                       const std::vector<double>& bias) {
  const Scope<B> scope = root(backend);
  Linear<B> model(scope, in, static_cast<Index>(bias.size()));
  scope.parameters->initialize(1);
  set_parameter(*scope.parameters, "kernel", kernel);
  set_parameter(*scope.parameters, "bias", bias);
  return model;
}
/// A network with curved decision boundaries, of large random weights.
template <class B>
Mlp<B> curved_model(B& backend, Index in, Index hidden, Index classes, std::uint64_t seed = 3) {
  const Scope<B> scope = root(backend);
  Mlp<B> model(scope, in, hidden, classes);
  scope.parameters->initialize(1);
  set_parameter(*scope.parameters, "Dense_0/kernel", normals(in * hidden, seed));
  set_parameter(*scope.parameters, "Dense_0/bias", normals(hidden, seed + 1));
  set_parameter(*scope.parameters, "Dense_1/kernel", normals(hidden * classes, seed + 2));
  return model;
}

/// Images in [0, 1], and room for what an attack finds.
template <class B>
struct AttackData {
  using T = typename B::Scalar;
  Index images, width;
  Buffer<T, B> x, x_adv;
  Buffer<std::int32_t, B> y, standing;

  AttackData(B& backend, Index n, Index d, std::uint64_t seed = 17)
      : images(n),
        width(d),
        x(backend, uniforms(n * d, seed)),
        x_adv(backend, n * d, T(-7)),
        y(backend, n, 0),
        standing(backend, n, 1) {}
  AttackBatch<B> batch(std::uint64_t seed = 5) const { return part(0, images, seed); }
  /// Images [first, first + n) as a batch of their own.
  AttackBatch<B> part(Index first, Index n, std::uint64_t seed = 5) const {
    return {.x = matrix(x, first, n),
            .y = ConstIntVector<B>(y.view()).middle(first, n),
            .seed = seed,
            .first_image = first};
  }
  Matrix<B> adv(Index first, Index n) const { return matrix(x_adv, first, n); }
  Matrix<B> adv() const { return adv(0, images); }
  /// Makes what `model` says of the images their classes.
  template <class M>
  void label_by(B& backend, const M& model) {
    auto tape = make_tape(model, images);
    Buffer<T, B> scores(backend, images * model.output_width(), 0);
    model.forward(x.view(images, width), scores.view(images, model.output_width()), tape,
                  {.mode = Mode::eval});
    argmax_rows(backend, ConstMatrix<B>(scores.view(images, model.output_width())), y.view());
  }

 private:
  Matrix<B> matrix(const Buffer<T, B>& of, Index first, Index n) const {
    return of.view(images, width).middle(first, n);
  }
  static std::vector<T> uniforms(Index n, std::uint64_t seed) {
    std::vector<T> v;
    const Random random{seed, 0, 0};
    for (Index i = 0; i < n; ++i)
      v.push_back(static_cast<T>(random.uniform(static_cast<std::uint64_t>(i))));
    return v;
  }
};

/// Checks what an attack made of points that stood `before`: the image of one that fell is wrong and
/// lies inside ball and box, no other row was written.
/// @returns how many fell
template <class B, class M, class A>
int check_fallen(B& backend, const AttackData<B>& data, RunAttack<M, A>& attack,
                 const std::vector<std::int32_t>& before) {
  const Threat& threat = attack.attack().threat;
  const auto standing = data.standing.to_vector();
  const auto x = data.x.to_vector(), adv = data.x_adv.to_vector();
  Buffer<std::int32_t, B> right(backend, data.images, 1);
  attack.find_correct(data.adv(), data.y.view(), right.view());
  const auto still = right.to_vector();
  const auto width = static_cast<std::size_t>(data.width);
  int fell = 0;
  for (std::size_t i = 0; i < standing.size(); ++i) {
    const bool fallen = before[i] != 0 && standing[i] == 0;
    fell += fallen ? 1 : 0;
    if (fallen) CHECK(still[i] == 0);
    double square = 0;
    for (std::size_t j = i * width; j < (i + 1) * width; ++j) {
      if (!fallen) {
        REQUIRE(adv[j] == -7);
        continue;
      }
      const double d = static_cast<double>(adv[j]) - static_cast<double>(x[j]);
      square += d * d;
      REQUIRE(static_cast<double>(adv[j]) >= threat.low);
      REQUIRE(static_cast<double>(adv[j]) <= threat.high);
      if (threat.norm == Norm::linf) REQUIRE(std::abs(d) <= threat.eps);
    }
    if (fallen && threat.norm == Norm::l2) CHECK(std::sqrt(square) <= threat.eps * (1 + 4e-16));
  }
  return fell;
}
/// Attacks the data batch by batch of `size` images.
template <class B, class Run>
void attack_in_batches(const AttackData<B>& data, Index size, Run& attack) {
  for (Index first = 0; first < data.images; first += size) {
    const Index n = size < data.images - first ? size : data.images - first;
    attack(data.part(first, n), data.adv(first, n), data.standing.view().middle(first, n));
  }
}

/// A target that counts what it is asked.
template <class M>
class Asked {
 public:
  using BackendType = typename M::BackendType;
  using B = BackendType;

  struct Notes {
    std::vector<int> scores, gradients;  ///< by image
  };
  Asked(M inner, Notes& notes, Index images) : inner_(std::move(inner)), notes_(&notes) {
    notes.scores.assign(static_cast<std::size_t>(images), 0);
    notes.gradients.assign(static_cast<std::size_t>(images), 0);
  }
  B& backend() const { return inner_.backend(); }
  Index input_width() const { return inner_.input_width(); }
  Index classes() const { return inner_.classes(); }
  void bind(Arena<B>& arena, Index images) { inner_.bind(arena, images); }
  void scores(ConstMatrix<B> x, ConstIntVector<B> image, Matrix<B> scores) {
    last_.resize(static_cast<std::size_t>(image.size));
    backend().copy_to_host(last_.data(), image.data, last_.size() * sizeof(std::int32_t));
    for (const std::int32_t i : last_) ++notes_->scores[static_cast<std::size_t>(i)];
    inner_.scores(x, image, scores);
  }
  void gradient(ConstMatrix<B> d_scores, Matrix<B> dx) {
    for (const std::int32_t i : last_) ++notes_->gradients[static_cast<std::size_t>(i)];
    inner_.gradient(d_scores, dx);
  }

 private:
  M inner_;
  Notes* notes_;
  std::vector<std::int32_t> last_;
};

}  // namespace moxie::test
