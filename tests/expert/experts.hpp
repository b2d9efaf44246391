#pragma once

#include <doctest/doctest.h>

#include <string>
#include <type_traits>
#include <vector>

#include "device/allocations.hpp"
#include "moxie/testing/expert_laws.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"

/// What the tests of experts share.
namespace moxie::test {

template <class B, class X>
void check_expert(const X& expert, testing::ExpertLawOptions options = {}) {
  B backend = make_backend<B>();
  const testing::LawReport report = testing::check_expert_laws(backend, expert, options);
  CHECK_MESSAGE(report.passed, report.message);
}

/// An expert with drawn parameters and the memory of one pass. Row r reads row r of x.
template <class B, class X>
class ExpertRun {
 public:
  using T = typename B::Scalar;

  ExpertRun(B& backend, const X& expert, const std::vector<std::int32_t>& offset, Index width)
      : backend_(backend),
        expert_(expert),
        scope_(root(backend)),
        rows_(offset.back()),
        offset_(backend, offset),
        x_(backend, rows_, width),
        out_(backend, rows_, expert.output_width(width)),
        dy_(backend, rows_, expert.output_width(width)),
        dx_(backend, rows_, width),
        memory_(backend, declare_and_measure(width)) {
    Arena<B> arena(Gradients::all, memory_.data(), memory_.bytes());
    expert_.bind(backend_, arena, parameters(), state_, rows_, tape_);
    testing::detail::Draw draw(5);
    x_.set(draw.normals(rows_ * width));
    dy_.set(draw.normals(rows_ * expert.output_width(width)));
  }

  Parameters<B>& parameters() const { return *scope_.parameters; }
  /// Parameters from N(0, 1), `from` on of those that one seed gives.
  void draw_parameters(Index from = 0) {
    const std::vector<double> all = testing::detail::Draw(9).normals(from + parameters().size());
    testing::detail::from_host(backend_, parameters().edit(),
                               std::vector<double>(all.begin() + from, all.end()));
  }
  void forward() {
    expert_.forward(backend_, parameters(), state_, rows(x_), out_.view(), tape_, {});
  }
  void backward() {
    expert_.backward(backend_, parameters(), state_, rows(x_), rows(dy_), dx_.view(), tape_,
                     Gradients::all);
  }
  testing::detail::OwnedMatrix<B>& x() { return x_; }
  testing::detail::OwnedMatrix<B>& dy() { return dy_; }
  std::vector<T> out() const { return out_.get(); }
  std::vector<T> dx() const { return dx_.get(); }

 private:
  std::size_t declare_and_measure(Index width) {
    expert_.declare(scope_, ExpertShape{offset_.view().size - 1, width}, state_);
    parameters().initialize(1);
    Arena<B> measured(Gradients::all);
    expert_.bind(backend_, measured, parameters(), state_, rows_, tape_);
    return measured.peak();
  }
  Rows<B> rows(const testing::detail::OwnedMatrix<B>& m) const {
    return {m.read(), {}, {}, offset_.view(), rows_};
  }

  B& backend_;
  const X& expert_;
  Scope<B> scope_;
  typename X::template State<B> state_{};
  typename X::template Tape<B> tape_{};
  Index rows_;
  Buffer<std::int32_t, B> offset_;
  testing::detail::OwnedMatrix<B> x_, out_, dy_, dx_;
  Memory<B> memory_;
};

}  // namespace moxie::test
