// Optimizers, clipping, schedules; positions and the loss of training from scratch.
#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/layers.hpp"
#include "moxie/layer/tape.hpp"
#include "moxie/nn/position_embedding.hpp"
#include "moxie/ops/cross_entropy.hpp"
#include "moxie/optimizer/adam_w.hpp"
#include "moxie/optimizer/clip.hpp"
#include "moxie/optimizer/sgd.hpp"
#include "moxie/train/schedule.hpp"

namespace moxie::conformance {
namespace {

template <class S>
Json rates(const S& schedule, const Json& steps) {
  std::vector<double> out;
  for (const Json& t : steps) out.push_back(schedule(t.get<std::uint64_t>()));
  return list(out);
}

/// The parameters after each update by `optimizer`.
template <Backend B, class O>
Json trajectory(const O& optimizer, const Json& inputs) {
  B b;
  const Json& start = inputs.at("p0");
  Parameters<B> p(b);
  p.add({.name = "p0", .shape = {length(start)}});
  p.initialize(0);
  set(p, "p0", flat<double>(start));
  typename O::template State<B> state(optimizer, p);
  Json out = Json::array();
  for (const Json& gradient : inputs.at("grads")) {
    upload(b, p.gradients(), flat<double>(gradient));
    optimizer.update(p, p.range(), state, inputs.at("lr").get<double>());
    out.push_back(list(host(b, p.values())));
  }
  return out;
}

/// An array of the shape of `like`, whose numbers are the next of `values`.
template <class T>
Json shaped_like(const Json& like, const std::vector<T>& values, std::size_t& next) {
  if (!like.is_array()) return static_cast<double>(values.at(next++));
  Json out = Json::array();
  for (const Json& part : like) out.push_back(shaped_like(part, values, next));
  return out;
}

struct OptimizerSchedules {
  template <Backend B>
  static Json run(const Json& inputs, Ranking&) {
    const auto peak = inputs.at("peak").get<double>();
    const auto end = inputs.at("end").get<double>();
    const auto warmup = inputs.at("warmup").get<std::uint64_t>();
    const auto total = inputs.at("total").get<std::uint64_t>();
    Json out{{"linear", rates(LinearSchedule{peak, end, warmup, total}, inputs.at("t"))},
             {"cosine", rates(CosineSchedule{peak, end, warmup, total}, inputs.at("t"))}};
    out["adamw"] =
        trajectory<B>(AdamW{.decay = Decay::all(inputs.at("weight_decay").get<double>())}, inputs);
    out["sgd"] = trajectory<B>(
        Sgd{.momentum = inputs.at("momentum").get<double>(), .decay = Decay::none()}, inputs);

    B b;
    Parameters<B> p(b);
    const Json& arrays = inputs.at("clip_in");
    for (Index i = 0; i < length(arrays); ++i)
      p.add({.name = std::to_string(i),
             .shape = {static_cast<Index>(flat<double>(arrays[at(i)]).size())}});
    p.initialize(0);
    upload(b, p.gradients(), flat<double>(arrays));
    ClipByGlobalNorm::State<B> state(p);
    const ClipByGlobalNorm clip{.limit = inputs.at("clip_norm").get<double>()};
    clip(p, p.range(), state);
    std::size_t next = 0;
    out["clipped"] = shaped_like(arrays, host(b, p.gradients()), next);
    out["norm"] = state.read_norm(b);
    return out;
  }
};

struct PositionsAndLoss {
  template <Backend B>
  static Json run(const Json& inputs, Ranking&) {
    B b;
    const Grid grid{inputs.at("h").get<Index>(), inputs.at("w").get<Index>()};
    const auto width = inputs.at("c").get<Index>();
    const PositionEmbedding<B> embedding(
        root(b), {.grid = grid, .width = width, .kind = Positions::sincos2d});
    embedding.parameters().initialize(0);
    const Table<B> zeros(b, 1, embedding.input_width());
    const Table<B> positions(b, 1, embedding.output_width());
    auto tape = make_tape(embedding, 1, Gradients::none);
    embedding.forward(zeros.read(), positions.view(), tape, {});

    const Table<B> logits = table(b, inputs.at("logits"));
    const Table<B> labels = table(b, inputs.at("labels"));
    const Buffer<B, typename B::Scalar> losses(b, logits.view().rows);
    sigmoid_cross_entropy(b, logits.read(), labels.read(), losses.view(), Matrix<B>());
    return {{"posemb", nested(positions.get(), {grid.cells(), width})},
            {"sigmoid_xent", list(host(b, losses.view()))}};
  }
};

}  // namespace

std::vector<Kind> training_kinds() {
  return {make_kind<OptimizerSchedules>("24_optimiser_schedules"),
          make_kind<PositionsAndLoss>("25_posemb_loss")};
}

}  // namespace moxie::conformance
