#pragma once

#include <memory>
#include <utility>

#include "moxie/gate/concept.hpp"

namespace moxie {

/// A gate whose type is chosen at run time: a few virtual calls a pass. It models Gate, and shares what it holds with its
/// copies.
template <Backend B>
class AnyGate {
  struct Held {
    virtual ~Held() = default;
  };

 public:
  template <Backend>
  struct State {
    std::shared_ptr<Held> held;
  };
  template <Backend>
  struct Tape {
    std::unique_ptr<Held> held;
    const void* type = nullptr;  // of what is held: works without run-time type information
  };

  template <class G>
  requires(Gate<G, B> && !std::same_as<G, AnyGate>)
      AnyGate(G gate)  // NOLINT(google-explicit-constructor): any gate is an AnyGate
      : model_(std::make_shared<const Model<G>>(std::move(gate))) {}
  AnyGate() = default;  ///< to be assigned to before use

  void declare(const Scope<B>& scope, const GateShape& shape, State<B>& state) const {
    state.held = model_->make_state();
    model_->declare(scope, shape, *state.held);
  }
  void bind(B& b, Arena<B>& arena, const GateShape& shape, Index tokens, Tape<B>& tape) const {
    if (tape.type != model_->type()) {  // bound again, a tape keeps its object
      tape.held = model_->make_tape();
      tape.type = model_->type();
    }
    model_->bind(b, arena, shape, tokens, *tape.held);
  }
  void forward(B& b, const Context<B>& ctx, const Parameters<B>& p, const State<B>& state,
               ConstMatrix<B> x, Matrix<B> logits, Tape<B>& tape) const {
    model_->forward(b, ctx, p, *state.held, x, logits, *tape.held);
  }
  void backward(B& b, const Context<B>& ctx, const Parameters<B>& p, const State<B>& state,
                ConstMatrix<B> x, ConstMatrix<B> d_logits, Matrix<B> dx, bool weights,
                Tape<B>& tape) const {
    model_->backward(b, ctx, p, *state.held, x, d_logits, dx, weights, *tape.held);
  }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual std::shared_ptr<Held> make_state() const = 0;
    virtual std::unique_ptr<Held> make_tape() const = 0;
    virtual const void* type() const = 0;
    virtual void declare(const Scope<B>&, const GateShape&, Held&) const = 0;
    virtual void bind(B&, Arena<B>&, const GateShape&, Index, Held&) const = 0;
    virtual void forward(B&, const Context<B>&, const Parameters<B>&, Held&, ConstMatrix<B>,
                         Matrix<B>, Held&) const = 0;
    virtual void backward(B&, const Context<B>&, const Parameters<B>&, Held&, ConstMatrix<B>,
                          ConstMatrix<B>, Matrix<B>, bool, Held&) const = 0;
  };
  template <class G>
  struct Model final : Base {
    struct HeldState final : Held {
      typename G::template State<B> value;
    };
    struct HeldTape final : Held {
      typename G::template Tape<B> value;
    };
    static auto& state(Held& h) { return static_cast<HeldState&>(h).value; }
    static auto& tape(Held& h) { return static_cast<HeldTape&>(h).value; }
    inline static const char type_tag = 0;  // its address names the type

    explicit Model(G g) : gate(std::move(g)) {}
    std::shared_ptr<Held> make_state() const override { return std::make_shared<HeldState>(); }
    std::unique_ptr<Held> make_tape() const override { return std::make_unique<HeldTape>(); }
    const void* type() const override { return &type_tag; }
    void declare(const Scope<B>& scope, const GateShape& shape, Held& s) const override {
      gate.declare(scope, shape, state(s));
    }
    void bind(B& b, Arena<B>& arena, const GateShape& shape, Index tokens, Held& t) const override {
      gate.bind(b, arena, shape, tokens, tape(t));
    }
    void forward(B& b, const Context<B>& ctx, const Parameters<B>& p, Held& s, ConstMatrix<B> x,
                 Matrix<B> logits, Held& t) const override {
      gate.forward(b, ctx, p, state(s), x, logits, tape(t));
    }
    void backward(B& b, const Context<B>& ctx, const Parameters<B>& p, Held& s, ConstMatrix<B> x,
                  ConstMatrix<B> d_logits, Matrix<B> dx, bool weights, Held& t) const override {
      gate.backward(b, ctx, p, state(s), x, d_logits, dx, weights, tape(t));
    }
    G gate;
  };
  std::shared_ptr<const Base> model_;
};

}  // namespace moxie
