#pragma once

#include <memory>
#include <utility>

#include "moxie/layer/concept.hpp"
#include "moxie/routing/record.hpp"

namespace moxie {

/// The tape of a layer whose type is not known; made by the layer when it binds.
template <Backend B>
class AnyTape {
 public:
  struct Held {
    virtual ~Held() = default;
  };
  std::unique_ptr<Held> held;
  const void* type = nullptr;  ///< of what is held: works without run-time type information
};

/// A layer whose type is chosen at run time: a few virtual calls per pass, never per token. It models Layer.
template <Backend B>
class AnyLayer {
 public:
  using BackendType = B;
  using Tape = AnyTape<B>;

  template <Layer L>
  requires(!std::same_as<L, AnyLayer>)
      AnyLayer(L layer)  // NOLINT(google-explicit-constructor): any layer is an AnyLayer
      : model_(std::make_unique<Model<L>>(std::move(layer))) {}

  Index input_width() const { return model_->input_width(); }
  Index output_width() const { return model_->output_width(); }
  void bind(Arena<B>& arena, Index rows, Tape& tape) const { model_->bind(arena, rows, tape); }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& tape, const Pass<B>& pass) const {
    model_->forward(x, y, tape, pass);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& tape) const {
    model_->backward(dy, dx, tape);
  }
  Parameters<B>& parameters() const { return model_->parameters(); }
  /// What a MoE layer inside recorded in this tape's last forward; nothing from a layer without routing.
  void visit_routing(Tape& tape, RoutingVisitor<B>& visitor) const {
    model_->visit_routing(tape, visitor);
  }
  /// Number of MoE layers inside, which the numbering in Pass::moe_layer and Pass::routes follows.
  Index moe_layers() const { return model_->moe_layers(); }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual Index input_width() const = 0;
    virtual Index output_width() const = 0;
    virtual void bind(Arena<B>&, Index, Tape&) const = 0;
    virtual void forward(ConstMatrix<B>, Matrix<B>, Tape&, const Pass<B>&) const = 0;
    virtual void backward(ConstMatrix<B>, Matrix<B>, Tape&) const = 0;
    virtual Parameters<B>& parameters() const = 0;
    virtual void visit_routing(Tape&, RoutingVisitor<B>&) const = 0;
    virtual Index moe_layers() const = 0;
  };
  template <Layer L>
  struct Model final : Base {
    struct Held final : Tape::Held {
      typename L::Tape tape;
    };
    inline static const char type_tag = 0;  // its address names the type

    explicit Model(L l) : layer(std::move(l)) {}
    static typename L::Tape& open(Tape& tape) {
      if (tape.type != &type_tag)
        throw_config("moxie::AnyLayer: this tape was ",
                     tape.type == nullptr ? "never bound" : "bound by a layer of another type",
                     ": make it with make_tape of this layer");
      return static_cast<Held&>(*tape.held).tape;
    }

    Index input_width() const override { return layer.input_width(); }
    Index output_width() const override { return layer.output_width(); }
    void bind(Arena<B>& arena, Index rows, Tape& tape) const override {
      // Bound again, a tape keeps its object: whole networks as experts bind inside forward, which may
      // not allocate.
      if (tape.type != &type_tag) {
        tape.held = std::make_unique<Held>();
        tape.type = &type_tag;
      }
      layer.bind(arena, rows, open(tape));
    }
    void forward(ConstMatrix<B> x, Matrix<B> y, Tape& tape, const Pass<B>& pass) const override {
      layer.forward(x, y, open(tape), pass);
    }
    void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& tape) const override {
      layer.backward(dy, dx, open(tape));
    }
    Parameters<B>& parameters() const override { return layer.parameters(); }
    void visit_routing(Tape& tape, RoutingVisitor<B>& visitor) const override {
      if constexpr (requires { layer.visit_routing(open(tape), visitor); })
        layer.visit_routing(open(tape), visitor);
    }
    Index moe_layers() const override {
      if constexpr (requires { layer.moe_layers(); }) {
        return layer.moe_layers();
      } else {
        return 0;
      }
    }
    L layer;
  };
  std::unique_ptr<Base> model_;
};

}  // namespace moxie
