#pragma once

#include <concepts>

#include "moxie/core/parameters.hpp"
#include "moxie/routing/pass.hpp"

/// A Layer maps rows to rows, forward and backward: Linear, LayerNorm, Mlp, MoeLayer, a whole Vit.
///
/// Members:
///   using BackendType; struct Tape;             Tape: the memory and notes of one pass
///   Index input_width(), output_width() const;
///   void bind(Arena<B>&, Index rows, Tape&) const;   takes all memory a pass of up to `rows` rows needs
///   void forward(ConstMatrix<B> x, Matrix<B> y, Tape&, const Pass<B>&) const;
///   void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape&) const;
///   Parameters<B>& parameters() const;          of the outermost model
///
/// Laws:
///  * `forward` and `backward` never allocate; `bind` only moves pointers, in the order of execution;
///  * `x` must live unchanged until the backward: a layer keeps a view of it, not a copy;
///  * gradients of parameters accumulate (+=), the gradient of the input overwrites (=); an empty dx is not
///    computed; with Pass::gradients below `all`, no gradient of a parameter is touched;
///  * `y` may not overlap `x`, nor dx dy;
///  * a tape bound for n rows serves any pass of at most n rows; forward is const and tapes are independent, so
///    several may be pending, on several threads;
///  * one backward a forward: layers made of layers overwrite what they saved while they go back;
///  * a wrong shape is a shape_error before anything is written.
namespace moxie {

template <class L>
concept Layer = Backend<typename L::BackendType> &&
    requires(const L& layer, typename L::Tape& tape, Arena<typename L::BackendType>& arena,
             ConstMatrix<typename L::BackendType> x, Matrix<typename L::BackendType> y,
             const Pass<typename L::BackendType>& pass, Index rows) {
  { layer.input_width() } -> std::same_as<Index>;
  { layer.output_width() } -> std::same_as<Index>;
  layer.bind(arena, rows, tape);
  layer.forward(x, y, tape, pass);
  layer.backward(x, y, tape);
  { layer.parameters() } -> std::same_as<Parameters<typename L::BackendType>&>;
};

namespace detail {
/// The checks every layer makes before it writes anything. `who` is the layer's name.
template <class B>
void check_forward(const char* who, ConstMatrix<B> x, Matrix<B> y, Index in, Index out,
                   Index bound) {
  if (x.cols != in)
    throw_shape(who, "::forward: x is [", x.rows, " x ", x.cols, "], expected [rows x ", in, "]");
  if (y.rows != x.rows || y.cols != out)
    throw_shape(who, "::forward: y is [", y.rows, " x ", y.cols, "], expected [", x.rows, " x ",
                out, "]");
  if (x.rows > bound)
    throw_shape(who, "::forward: x has ", x.rows, " rows, the tape was made for at most ", bound);
  if (x.rows > 0 && (!x || !y))
    throw_shape(who, "::forward: ", x ? "y" : "x", " has ", x.rows,
                " rows but no memory (a null pointer)");
}
template <class B>
void check_backward(const char* who, ConstMatrix<B> dy, Matrix<B> dx, Index rows, Index in,
                    Index out) {
  if (dy.rows != rows || dy.cols != out)
    throw_shape(who, "::backward: dy is [", dy.rows, " x ", dy.cols, "], expected [", rows, " x ",
                out, "], the shape of this tape's last forward");
  if (rows > 0 && !dy)
    throw_shape(who, "::backward: dy has ", rows, " rows but no memory (a null pointer)");
  if (dx && (dx.rows != rows || dx.cols != in))
    throw_shape(who, "::backward: dx is [", dx.rows, " x ", dx.cols, "], expected [", rows, " x ",
                in, "] or empty");
}
}  // namespace detail

}  // namespace moxie
