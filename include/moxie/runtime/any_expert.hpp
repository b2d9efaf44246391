#pragma once

#include <memory>
#include <utility>

#include "moxie/expert/concept.hpp"

namespace moxie {

/// Experts whose type is chosen at run time: a few virtual calls a pass. It models Expert, and shares what it holds with
/// its copies.
template <Backend B>
class AnyExpert {
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

  template <class X>
  requires(Expert<X, B> && !std::same_as<X, AnyExpert>)
      AnyExpert(X expert)  // NOLINT(google-explicit-constructor): any expert is an AnyExpert
      : model_(std::make_shared<const Model<X>>(std::move(expert))) {}

  Index output_width(Index width) const { return model_->output_width(width); }
  void declare(const Scope<B>& scope, const ExpertShape& shape, State<B>& state) const {
    state.held = model_->make_state();
    model_->declare(scope, shape, *state.held);
  }
  void bind(B& b, Arena<B>& arena, const Parameters<B>& p, const State<B>& state, Index rows,
            Tape<B>& tape) const {
    // Bound again, a tape keeps its object: networks as experts bind inside forward, which may not allocate.
    if (tape.type != model_->type()) {
      tape.held = model_->make_tape();
      tape.type = model_->type();
    }
    model_->bind(b, arena, p, *state.held, rows, *tape.held);
  }
  void forward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
               Matrix<B> out, Tape<B>& tape, const Pass<B>& pass) const {
    model_->forward(b, p, *state.held, in, out, *tape.held, pass);
  }
  void backward(B& b, const Parameters<B>& p, const State<B>& state, const Rows<B>& in,
                const Rows<B>& dy, Matrix<B> dx, Tape<B>& tape, Gradients gradients) const {
    model_->backward(b, p, *state.held, in, dy, dx, *tape.held, gradients);
  }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual std::shared_ptr<Held> make_state() const = 0;
    virtual std::unique_ptr<Held> make_tape() const = 0;
    virtual const void* type() const = 0;
    virtual Index output_width(Index) const = 0;
    virtual void declare(const Scope<B>&, const ExpertShape&, Held&) const = 0;
    virtual void bind(B&, Arena<B>&, const Parameters<B>&, Held&, Index, Held&) const = 0;
    virtual void forward(B&, const Parameters<B>&, Held&, const Rows<B>&, Matrix<B>, Held&,
                         const Pass<B>&) const = 0;
    virtual void backward(B&, const Parameters<B>&, Held&, const Rows<B>&, const Rows<B>&,
                          Matrix<B>, Held&, Gradients) const = 0;
  };
  template <class X>
  struct Model final : Base {
    struct HeldState final : Held {
      typename X::template State<B> value;
    };
    struct HeldTape final : Held {
      typename X::template Tape<B> value;
    };
    static auto& state(Held& h) { return static_cast<HeldState&>(h).value; }
    static auto& tape(Held& h) { return static_cast<HeldTape&>(h).value; }
    inline static const char type_tag = 0;  // its address names the type

    explicit Model(X x) : expert(std::move(x)) {}
    std::shared_ptr<Held> make_state() const override { return std::make_shared<HeldState>(); }
    std::unique_ptr<Held> make_tape() const override { return std::make_unique<HeldTape>(); }
    const void* type() const override { return &type_tag; }
    Index output_width(Index width) const override { return expert.output_width(width); }
    void declare(const Scope<B>& scope, const ExpertShape& shape, Held& s) const override {
      expert.declare(scope, shape, state(s));
    }
    void bind(B& b, Arena<B>& arena, const Parameters<B>& p, Held& s, Index rows,
              Held& t) const override {
      expert.bind(b, arena, p, state(s), rows, tape(t));
    }
    void forward(B& b, const Parameters<B>& p, Held& s, const Rows<B>& in, Matrix<B> out, Held& t,
                 const Pass<B>& pass) const override {
      expert.forward(b, p, state(s), in, out, tape(t), pass);
    }
    void backward(B& b, const Parameters<B>& p, Held& s, const Rows<B>& in, const Rows<B>& dy,
                  Matrix<B> dx, Held& t, Gradients gradients) const override {
      expert.backward(b, p, state(s), in, dy, dx, tape(t), gradients);
    }
    X expert;
  };
  std::shared_ptr<const Base> model_;
};

}  // namespace moxie
