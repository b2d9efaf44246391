// The kernels besides those of products in which a step spends its time, for check.py to look at.
#include "moxie/backend/cuda.hpp"
#include "moxie/backend/device/kernels/assign_rows.hpp"
#include "moxie/backend/device/kernels/attention.hpp"
#include "moxie/backend/device/kernels/column_sums.hpp"
#include "moxie/backend/device/kernels/combine_rows.hpp"
#include "moxie/backend/device/kernels/expert_bias.hpp"
#include "moxie/backend/device/kernels/flat_pass.hpp"
#include "moxie/backend/device/kernels/largest_tokens.hpp"
#include "moxie/backend/device/kernels/layer_norm.hpp"
#include "moxie/backend/device/kernels/narrow_rows.hpp"
#include "moxie/backend/device/kernels/sinkhorn.hpp"
#include "moxie/backend/device/kernels/sinkhorn_backward.hpp"
#include "moxie/backend/device/kernels/softmax_top_k.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/noisy_load.hpp"

namespace moxie::detail::device {

template <class... P>
void keep(void (*kernel)(P...)) {
  [[maybe_unused]] void (*volatile kept)(P...) = kernel;
}

template <class T, int Width>
void keep_attention() {
  keep(attention_forward<T, Width, DeviceSpace>);
  keep(attention_backward_queries<T, Width, DeviceSpace>);
  keep(attention_backward_keys<T, Width, DeviceSpace>);
}
template <class T, int Held>
void keep_layer_norm() {
  keep(layer_norm_forward<T, Held, DeviceSpace>);
  keep(layer_norm_backward<T, Held, DeviceSpace>);
}
template <class T>
void keep_of() {
  using B = CudaBackend<T>;
  keep_attention<T, 64>();
  keep_attention<T, 128>();
  keep_layer_norm<T, 0>();
  keep_layer_norm<T, 8>();
  keep(softmax_top_k<B, 1>);
  keep(softmax_top_k<B, 8>);
  keep(softmax_top_k<B, 32>);
  keep(rank_assignments<B>);
  keep(assign_rows_alone<B>);
  keep(count_taken<B>);
  keep(take_largest<B>);
  keep(sinkhorn_groups<B>);
  keep(sinkhorn_solve<B>);
  keep(combine_token_rows<B, pack_width<T>>);
  keep(combine_token_weights<B, true>);
  keep(gather_expert_rows<B, pack_width<T>>);
  keep(copy_padded_expert_rows<B, pack_width<T>>);
  keep(sum_expert_rows<B, 1>);
  keep(sum_expert_rows<B, pack_width<T>>);
  keep(flat_pass<T, AdamWPass<T>>);
  keep(sum_rows<T, DenseTerm<T>>);
  keep(sum_made_rows<T, ProbabilityTerm<B>>);
  keep(sum_made_rows<T, LoadTerm<B, LoadProbability<B>>>);
}
void keep_all() {
  keep_of<float>();
  keep_of<double>();
  keep_layer_norm<float, 24>();
  keep(narrow_rows<float>);
}

}  // namespace moxie::detail::device
