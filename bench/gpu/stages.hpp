#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moxie/backend/cuda.hpp"
#include "moxie/capacity/assign.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/core/random.hpp"
#include "moxie/dispatch/einsum.hpp"
#include "moxie/dispatch/gather.hpp"
#include "moxie/dispatch/padded.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/ops/expert_product.hpp"
#include "moxie/ops/layer_product.hpp"
#include "moxie/router/top_k.hpp"

namespace bench {

using B = moxie::CudaBackend<float>;
using moxie::Index;
using moxie::Op;
/// Experts' rows as they come, for our ragged products, or filled up to the capacity, for strided ones of cuBLAS.
using Ragged = moxie::TopKRouter;
using Padded = moxie::WithDispatcher<moxie::PaddedDispatcher, moxie::TopKRouter>;

/// What the products of experts, and dense ones beside them, round their factors to.
enum class Factors { fp32, tf32, bf16 };
inline moxie::CudaOptions options_of(Factors factors) {
  return {.tf32 = factors == Factors::tf32,
          .bf16_experts =
              factors == Factors::bf16 ? moxie::Bf16Experts::always : moxie::Bf16Experts::never};
}

struct Sizes {
  Index tokens, width, hidden, experts, choices;
  Index each = 0;  ///< rows an expert of a strided product
  Index rows() const { return tokens * choices; }
  Index padded_rows() const { return experts * each; }
  Index most_rows() const { return rows() > padded_rows() ? rows() : padded_rows(); }
};

template <class T>
struct DrawNormal {
  moxie::Random random;
  T* to;

  MOXIE_HD void operator()(Index i) const {
    to[i] = T(static_cast<float>(random.normal(static_cast<std::uint64_t>(i))));
  }
};

/// Random numbers in the device's memory, drawn there: on the host the hundreds of millions of a layer would take longer than
/// all that is measured.
template <class T = float>
class Numbers {
 public:
  Numbers(B& backend, Index rows, Index cols, std::uint64_t seed)
      : memory_(backend, rows * cols), rows_(rows), cols_(cols) {
    backend.for_each(rows * cols, DrawNormal<T>{moxie::Random{seed, 0, 0}, memory_.view().data});
  }
  moxie::MatrixView<T, B::Space> view() const { return {memory_.view().data, rows_, cols_}; }

 private:
  moxie::Buffer<B, T> memory_;
  Index rows_, cols_;
};

/// A layer with tapes and memory: `forward` as in an evaluation, and with its backward as in training.
template <class Router, class Capacity>
class WholeLayer {
 public:
  WholeLayer(B& backend, const Sizes& s, const Router& router, const Capacity& capacity)
      : layer_(backend, moxie::MoeShape{.width = s.width, .experts = s.experts, .seed = 1}, router,
               capacity, moxie::FeedForward<moxie::Gelu>{.hidden = s.hidden}),
        evaluation_(layer_.make_tape(s.tokens, moxie::Gradients::none)),
        training_(layer_.make_tape(s.tokens)),
        x_(backend, s.tokens, s.width, 1),
        dy_(backend, s.tokens, s.width, 2),
        y_(backend, s.tokens, s.width, 3),
        dx_(backend, s.tokens, s.width, 4) {}

  void forward() { run(evaluation_); }
  void forward_and_backward() {
    run(training_);
    layer_.backward(moxie::ConstMatrix<B>(dy_.view()), dx_.view(), training_);
  }
  const moxie::SparseRouting<B>& routing() { return evaluation_->routing; }
  const moxie::Parameters<B>& parameters() const { return layer_.parameters(); }

 private:
  using Layer = moxie::MoeLayer<B, Router, Capacity, moxie::FeedForward<moxie::Gelu>>;
  void run(moxie::OwnedTape<Layer>& tape) {
    layer_.forward(moxie::ConstMatrix<B>(x_.view()), y_.view(), tape, moxie::Pass<B>{});
  }

  Layer layer_;
  moxie::OwnedTape<Layer> evaluation_, training_;
  Numbers<> x_, dy_, y_, dx_;
};

/// The products of one dense layer of two, of `rows` rows, by cuBLAS alone: what experts' are measured against.
class DenseProducts {
 public:
  DenseProducts(B& backend, const Sizes& s, Index rows, Factors factors)
      : b_(backend),
        factors_(factors),
        x_(backend, rows, s.width, 12),
        h_(backend, rows, s.hidden, 13),
        w1_(backend, s.width, s.hidden, 14),
        w2_(backend, s.hidden, s.width, 15),
        to_x_(backend, rows * s.width),
        to_h_(backend, rows * s.hidden),
        to_w_(backend, s.width * s.hidden) {}

  void forward() {
    product(Op::none, Op::none, x_, w1_, to_h_);
    product(Op::none, Op::none, h_, w2_, to_x_);
  }
  /// x and h stand for the gradients of the results too.
  void backward() {
    product(Op::none, Op::transpose, x_, w2_, to_h_);
    product(Op::transpose, Op::none, h_, x_, to_w_);
    product(Op::transpose, Op::none, x_, h_, to_w_);
    product(Op::none, Op::transpose, h_, w1_, to_x_);
  }

 private:
  /// In floats and in bf16.
  struct Both {
    Both(B& backend, Index rows, Index cols, std::uint64_t seed)
        : wide(backend, rows, cols, seed), narrow(backend, rows, cols, seed) {}
    Numbers<> wide;
    Numbers<moxie::bf16> narrow;
  };
  void product(Op op_a, Op op_b, const Both& a, const Both& b, const moxie::Buffer<B, float>& to) {
    const moxie::ConstMatrix<B> left = a.wide.view(), right = b.wide.view();
    const Index rows = op_a == Op::none ? left.rows : left.cols;
    const Index inner = op_a == Op::none ? left.cols : left.rows;
    const Index cols = op_b == Op::none ? right.cols : right.rows;
    const moxie::Matrix<B> out(to.view().data, rows, cols);
    if (factors_ == Factors::bf16) {  // row-major: the operands change places
      b_.leaf().gemm_strided(op_b, op_a, cols, rows, inner, 1.0F, b.narrow.view().data, right.cols,
                             0, a.narrow.view().data, left.cols, 0, 0.0F, out.data, cols, 0, 1);
    } else {
      moxie::layer_product(b_, op_a, op_b, left, right, 0.0F, out);
    }
  }

  B& b_;
  Factors factors_;
  Both x_, h_, w1_, w2_;
  moxie::Buffer<B, float> to_x_, to_h_, to_w_;
};

/// The parts of a pass one by one, over the routes that a layer's forward has left in its tape and with its weights.
class Stages {
 public:
  Stages(B& backend, const Sizes& s, moxie::SparseRouting<B> routing,
         const moxie::Parameters<B>& parameters)
      : b_(backend),
        s_(s),
        r_(routing),
        p_(parameters),
        x_(backend, s.most_rows(), s.width, 5),
        gate_(backend, s.width, s.experts, 6),
        h_(backend, s.most_rows(), s.hidden, 9),
        out_(backend, s.most_rows(), s.width, 10),
        y_(backend, s.tokens, s.width, 11),
        even_(backend, s.experts + 1) {
    w1_.id = id_of("Dense_0/kernel");
    w2_.id = id_of("Dense_1/kernel");
    std::vector<std::int32_t> even;
    for (Index e = 0; e <= s.experts; ++e) even.push_back(static_cast<std::int32_t>(e * s.each));
    b_.copy_from_host(even_.view().data, even.data(), even.size() * sizeof(std::int32_t));
    context_.shape = r_.shape;
    context_.mode = moxie::Mode::eval;
    maps_memory_ = bound(moxie::Gradients::none, [&](moxie::Arena<B>& arena) {
      maps_.bind(arena, b_, r_.shape, r_.shape.groups(), 0);
    });
    const auto bind = [&](moxie::ExpertMemory<B>& memory) {
      return [&](moxie::Arena<B>& arena) {
        moxie::expert_product.bind(b_, arena, p_, w1_, w2_, s_.most_rows(), memory);
      };
    };
    forward_memory_ = bound(moxie::Gradients::none, bind(of_forward_));
    backward_memory_ = bound(moxie::Gradients::all, bind(of_backward_));
  }

  void gate() {
    b_.gemm(Op::none, Op::none, 1, x_.view().top(s_.tokens), gate_.view(), 0, r_.logits);
  }
  void route() { moxie::TopKRouter{.k = s_.choices}.route(b_, context_, r_); }
  void maps() {
    moxie::assign_slots(b_, context_, moxie::Dropless{}, r_.shape.capacity, maps_, r_);
  }
  /// The two products of the experts, nothing else, over ragged rows or as strided products of `each` rows an expert.
  void products(bool padded) {
    product(w1_, of_forward_, rows(x_, padded, true), Op::none, h_);
    product(w2_, of_forward_, rows(h_, padded), Op::none, out_);
  }
  /// The four of their backward. x and h stand for the gradients of the results too.
  void backward_products(bool padded) {
    product(w2_, of_backward_, rows(x_, padded), Op::transpose, h_);
    weights(rows(h_, padded), rows(x_, padded), w2_);
    weights(rows(x_, padded, true), rows(h_, padded), w1_);
    product(w1_, of_backward_, rows(h_, padded), Op::transpose, out_);
  }
  void combine() {
    moxie::GatherDispatcher::Tape<B> none;
    moxie::GatherDispatcher{}.combine(b_, r_, moxie::ConstMatrix<B>(out_.view()), y_.view(), none);
  }

 private:
  moxie::Parameters<B>::Id id_of(std::string_view end) const {
    moxie::Parameters<B>::Id id = 0;
    while (!p_.entry(id).name.ends_with(end)) ++id;
    return id;
  }
  template <class F>
  moxie::Memory<B> bound(moxie::Gradients gradients, const F& bind) {
    moxie::Arena<B> measured(gradients);
    bind(measured);
    moxie::Memory<B> memory(b_, measured.peak());
    moxie::Arena<B> arena(gradients, memory.data(), memory.bytes());
    bind(arena);
    return memory;
  }
  /// The rows of `m` by expert; `gathered`: those of the tokens, without a copy.
  moxie::Rows<B> rows(const Numbers<>& m, bool padded, bool gathered = false) const {
    if (padded) return {m.view(), {}, {}, even_.view(), s_.padded_rows(), s_.each};
    if (gathered) return {m.view(), r_.token, {}, r_.offset, r_.shape.rows};
    return {m.view(), {}, {}, r_.offset, r_.shape.rows};
  }
  void product(const moxie::ExpertWeights<B>& w, const moxie::ExpertMemory<B>& memory,
               const moxie::Rows<B>& in, Op op, const Numbers<>& to) {
    moxie::expert_product(b_, p_, w, memory, in, op, to.view(), moxie::NoEnd{});
  }
  void weights(const moxie::Rows<B>& in, const moxie::Rows<B>& dy,
               const moxie::ExpertWeights<B>& w) {
    moxie::expert_weights_product(b_, of_backward_, in, dy, p_.gradient(w.id));
  }

  B& b_;
  Sizes s_;
  moxie::SparseRouting<B> r_;
  const moxie::Parameters<B>& p_;
  moxie::ExpertWeights<B> w1_, w2_;
  moxie::Context<B> context_;
  moxie::AssignMemory<B> maps_;
  moxie::ExpertMemory<B> of_forward_, of_backward_;
  moxie::Memory<B> maps_memory_, forward_memory_, backward_memory_;
  Numbers<> x_, gate_, h_, out_, y_;
  moxie::Buffer<B, std::int32_t> even_;
};

}  // namespace bench
