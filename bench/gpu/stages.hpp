#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "moxie/backend/cuda.hpp"
#include "moxie/capacity/assign.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/dispatch/einsum.hpp"
#include "moxie/dispatch/gather.hpp"
#include "moxie/dispatch/padded.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"

namespace bench {

using B = moxie::CudaBackend<float>;
using moxie::Index;
using moxie::Op;
/// Experts' rows as they come, for our ragged products, or filled up to the capacity, for strided ones of cuBLAS.
using Ragged = moxie::TopKRouter;
using Padded = moxie::WithDispatcher<moxie::PaddedDispatcher, moxie::TopKRouter>;

struct Sizes {
  Index tokens, width, hidden, experts, choices;
  Index each = 0;  ///< rows an expert of a strided product
  Index rows() const { return tokens * choices; }
  Index padded_rows() const { return experts * each; }
  Index most_rows() const { return rows() > padded_rows() ? rows() : padded_rows(); }
};

/// Random numbers in the device's memory.
class Numbers {
 public:
  Numbers(B& backend, Index rows, Index cols, std::uint64_t seed)
      : memory_(backend, rows * cols), rows_(rows), cols_(cols) {
    const moxie::Random random{seed, 0, 0};
    std::vector<float> host(static_cast<std::size_t>(rows * cols));
    for (std::size_t i = 0; i < host.size(); ++i) host[i] = static_cast<float>(random.normal(i));
    backend.copy_from_host(memory_.view().data, host.data(), host.size() * sizeof(float));
  }
  moxie::Matrix<B> view() const { return {memory_.view().data, rows_, cols_}; }

 private:
  moxie::Buffer<B, float> memory_;
  Index rows_, cols_;
};

/// A layer with a tape and memory, and its backward.
template <class Router, class Capacity>
class WholeLayer {
 public:
  WholeLayer(B& backend, const Sizes& s, const Router& router, const Capacity& capacity)
      : layer_(backend, moxie::MoeShape{.width = s.width, .experts = s.experts, .seed = 1}, router,
               capacity, moxie::FeedForward<moxie::Gelu>{.hidden = s.hidden}),
        tape_(layer_.make_tape(s.tokens)),
        x_(backend, s.tokens, s.width, 1),
        dy_(backend, s.tokens, s.width, 2),
        y_(backend, s.tokens, s.width, 3),
        dx_(backend, s.tokens, s.width, 4) {}

  void forward() {
    layer_.forward(moxie::ConstMatrix<B>(x_.view()), y_.view(), tape_, moxie::Pass<B>{});
  }
  void forward_and_backward() {
    forward();
    layer_.backward(moxie::ConstMatrix<B>(dy_.view()), dx_.view(), tape_);
  }
  const moxie::SparseRouting<B>& routing() { return tape_->routing; }

 private:
  using Layer = moxie::MoeLayer<B, Router, Capacity, moxie::FeedForward<moxie::Gelu>>;
  Layer layer_;
  moxie::OwnedTape<Layer> tape_;
  Numbers x_, dy_, y_, dx_;
};

/// The parts of a forward one by one, over the routes that a layer's forward has left in its tape.
class Stages {
 public:
  Stages(B& backend, const Sizes& s, moxie::SparseRouting<B> routing)
      : b_(backend),
        s_(s),
        r_(routing),
        x_(backend, s.tokens, s.width, 5),
        gate_(backend, s.width, s.experts, 6),
        w1_(backend, s.experts * s.width, s.hidden, 7),
        w2_(backend, s.experts * s.hidden, s.width, 8),
        h_(backend, s.most_rows(), s.hidden, 9),
        out_(backend, s.most_rows(), s.width, 10),
        y_(backend, s.tokens, s.width, 11) {
    context_.shape = r_.shape;
    context_.mode = moxie::Mode::eval;
    moxie::Arena<B> measured(moxie::Gradients::none);
    maps_.bind(measured, b_, r_.shape, r_.shape.groups(), 0);
    memory_ = moxie::Memory<B>(b_, measured.peak());
    moxie::Arena<B> arena(moxie::Gradients::none, memory_.data(), memory_.bytes());
    maps_.bind(arena, b_, r_.shape, r_.shape.groups(), 0);
  }

  void gate() { b_.gemm(Op::none, Op::none, 1, x_.view(), gate_.view(), 0, r_.logits); }
  void route() { moxie::TopKRouter{.k = s_.choices}.route(b_, context_, r_); }
  void maps() { moxie::assign_slots(b_, context_, moxie::Dropless{}, r_.shape.capacity, maps_, r_); }
  /// The two products of the experts over ragged rows, nothing else.
  void products() {
    const moxie::Index rows = r_.shape.rows;
    b_.grouped_gemm({x_.view(), r_.token, {}, r_.offset, rows}, Op::none, w1_.view(), h_.view());
    b_.grouped_gemm({h_.view(), {}, {}, r_.offset, rows}, Op::none, w2_.view(), out_.view());
  }
  /// The same as one strided batch of cuBLAS, `each` rows an expert.
  void padded_products() {
    const auto batch = [&](moxie::Matrix<B> m, Index rows) {
      return moxie::Batched<B>{{m.data, rows, m.cols}, s_.experts, rows * m.cols};
    };
    b_.batched_gemm(Op::none, Op::none, 1, batch(out_.view(), s_.each), batch(w1_.view(), s_.width),
                    0, batch(h_.view(), s_.each));
    b_.batched_gemm(Op::none, Op::none, 1, batch(h_.view(), s_.each), batch(w2_.view(), s_.hidden),
                    0, batch(out_.view(), s_.each));
  }
  /// As many multiply-adds as the strided batch has, as one dense layer.
  void dense_products() {
    const moxie::Matrix<B> h = h_.view().top(s_.padded_rows());
    const moxie::Matrix<B> out = out_.view().top(s_.padded_rows());
    b_.gemm(Op::none, Op::none, 1, out, w1_.view().top(s_.width), 0, h);
    b_.gemm(Op::none, Op::none, 1, h, w2_.view().top(s_.hidden), 0, out);
  }
  void combine() {
    moxie::GatherDispatcher::Tape<B> none;
    moxie::GatherDispatcher{}.combine(b_, r_, moxie::ConstMatrix<B>(out_.view()), y_.view(), none);
  }

 private:
  B& b_;
  Sizes s_;
  moxie::SparseRouting<B> r_;
  moxie::Context<B> context_;
  moxie::AssignMemory<B> maps_;
  moxie::Memory<B> memory_;
  Numbers x_, gate_, w1_, w2_, h_, out_, y_;
};

}  // namespace bench
