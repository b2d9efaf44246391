#pragma once

#include <torch/torch.h>

#include <memory>
#include <moxie/layer/concept.hpp>
#include <moxie/layer/tape.hpp>
#include <utility>

/// A layer as a module of LibTorch. Tensors and parameters are not copied: torch's optimizers write
/// into the layer's parameters, and forward and backward read and write torch's memory.
namespace moxie_torch {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

/// What one forward leaves for its backward: several may be pending.
template <class L>
struct PendingPass : torch::CustomClassHolder {
  explicit PendingPass(const L& l, moxie::Index rows)
      : layer(&l), tape(moxie::make_tape(l, rows)) {}
  const L* layer;
  decltype(moxie::make_tape(std::declval<const L&>(), moxie::Index{})) tape;
};

template <class L>
class MoeFunction : public torch::autograd::Function<MoeFunction<L>> {
  using B = typename L::BackendType;
  using T = typename B::Scalar;
  static moxie::ConstMatrix<B> read(const torch::Tensor& t) {
    return {t.data_ptr<T>(), t.size(0), t.size(1)};
  }
  static moxie::Matrix<B> write(torch::Tensor& t) {
    return {t.data_ptr<T>(), t.size(0), t.size(1)};
  }

 public:
  /// `weights` is there for autograd alone: it is the layer's own memory.
  static torch::Tensor forward(AutogradContext* context, torch::Tensor x,
                               const torch::Tensor& /*weights*/, const L* layer,
                               const moxie::Pass<B>* pass) {
    x = x.contiguous();
    auto pending = c10::make_intrusive<PendingPass<L>>(*layer, x.size(0));
    torch::Tensor y = torch::empty({x.size(0), layer->output_width()}, x.options());
    layer->forward(read(x), write(y), pending->tape, *pass);
    context->save_for_backward({x});  // the layer keeps a view of it
    context->saved_data["pass"] = c10::IValue::make_capsule(std::move(pending));
    return y;
  }
  static tensor_list backward(AutogradContext* context, tensor_list gradients) {
    const auto held = context->saved_data["pass"].toCapsule();
    auto& pending = static_cast<PendingPass<L>&>(*held);
    const torch::Tensor dy = gradients[0].contiguous();
    torch::Tensor dx = torch::empty_like(context->get_saved_variables()[0]);
    moxie::Parameters<B>& p = pending.layer->parameters();
    p.zero_gradients();  // torch adds passes up
    pending.layer->backward(read(dy), write(dx), pending.tape);
    const torch::Tensor dw = torch::from_blob(p.gradients().data, {p.size()}, dy.options()).clone();
    return {dx, dw, torch::Tensor(), torch::Tensor()};
  }
};

/// What the randomness of a module's passes is drawn by, beside the number of the pass. Modules of one model have
/// one seed and each a number of its own, or their noise is the same.
struct MoeModuleOptions {
  std::uint64_t seed = 0;  ///< of all randomness in its passes (Pass::seed)
  /// of its first MoE layer among those of the model (Pass::moe_layer)
  moxie::Index moe_layer = 0;
};

/// Any layer of moxie on a backend of host memory, [rows, D] to [rows, O]. Its losses on the routing
/// are part of every backward. One backward at a time,
/// and the module must live until the last.
template <class L>
class MoeModule : public torch::nn::Module {
  using B = typename L::BackendType;

 public:
  explicit MoeModule(L layer, const MoeModuleOptions& options = {})
      : layer_(std::move(layer)), options_(options) {
    TORCH_CHECK(options_.moe_layer >= 0, "MoeModule: options.moe_layer is ", options_.moe_layer,
                ", expected >= 0");
    const moxie::Vector<B> own = layer_.parameters().edit();
    weights_ = register_parameter(
        "weights", torch::from_blob(own.data, {own.size},
                                    torch::CppTypeToScalarType<typename B::Scalar>::value));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    TORCH_CHECK(weights_.data_ptr() == layer_.parameters().values().data,
                "MoeModule: the weights lie elsewhere now: a layer cannot change device or type");
    TORCH_CHECK(x.dim() == 2, "MoeModule: x has the axes ", x.sizes(),
                ", expected [rows, D]: fold those in front, x.flatten(0, -2)");
    if (weights_._version() !=
        version_) {  // an optimizer wrote: copies that the layer made are stale
      static_cast<void>(layer_.parameters().edit());
      version_ = weights_._version();
    }
    const moxie::Pass<B> pass{.mode = is_training() ? moxie::Mode::train : moxie::Mode::eval,
                              .seed = options_.seed,
                              .step = step_,
                              .moe_layer = options_.moe_layer};
    if (is_training()) ++step_;  // fresh noise for each pass
    return MoeFunction<L>::apply(x, weights_, &layer_, &pass);
  }
  const L& layer() const { return layer_; }

 private:
  L layer_;
  MoeModuleOptions options_;
  torch::Tensor weights_;
  std::int64_t version_ = -1;
  std::uint64_t step_ = 0;
};

}  // namespace moxie_torch
