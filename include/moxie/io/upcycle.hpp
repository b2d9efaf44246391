#pragma once

#include <cmath>

#include "moxie/core/random.hpp"
#include "moxie/io/checkpoint.hpp"

/// A dense model's weights as the start of one with experts.
namespace moxie {

struct UpcycleOptions {
  /// Of what is added to each element of the experts' kernels: normal, with `noise` times the root mean square
  /// of the dense kernel as its deviation, drawn for each expert apart. 0: all experts start alike.
  double noise = 0;
  std::uint64_t seed = 0;  ///< of the noise
};

struct UpcycleReport {
  Index copied = 0;    ///< entries that both models have
  Index repeated = 0;  ///< entries with an expert axis, filled from dense ones
  /// what the dense model has none of (gates), left as it was initialized
  std::vector<std::string> kept{};
};

namespace detail {

/// ".../encoderblock_3/Moe/Mlp/Dense_0/kernel" as the dense model calls it: without "Moe/".
inline std::string dense_name(std::string_view name) {
  constexpr std::string_view moe = "Moe/";
  for (std::size_t at = name.find(moe); at != std::string_view::npos; at = name.find(moe, at + 1))
    if (at == 0 || name[at - 1] == '/')
      return std::string(name.substr(0, at)).append(name.substr(at + moe.size()));
  return {};
}

/// Writes dense values E times, the copies of a kernel each with noise of its own.
template <class T>
void repeat_for_experts(const ParameterEntry& e, const UpcycleOptions& options,
                        const std::vector<T>& dense, T* to) {
  const bool noisy = options.noise > 0 && e.name.ends_with("kernel");
  double squares = 0;
  for (const T v : dense) squares += static_cast<double>(v) * static_cast<double>(v);
  const double deviation =
      dense.empty() ? 0 : options.noise * std::sqrt(squares / static_cast<double>(dense.size()));
  const Random random{options.seed, 0, stream_id(e.name.c_str())};
  for (Index expert = 0; expert < e.shape[0]; ++expert)
    for (std::size_t i = 0; i < dense.size(); ++i, ++to)
      *to = noisy ? static_cast<T>(static_cast<double>(dense[i]) +
                                   deviation * random.normal(i, static_cast<std::uint64_t>(expert)))
                  : dense[i];
}

}  // namespace detail

/// Fills a model with experts from the checkpoint of a dense one, initialized before: entries of one name and
/// shape are copied; a perceptron of the dense model becomes every expert of the layer that stands in its place
/// (`.../Mlp/...` to `.../Moe/Mlp/...`); gates stay as they are. Blocks, and takes host memory.
///
/// Without noise the new model gives what the dense one gives, if each token's weights sum to 1
/// (`TopKRouter{.k = K, .renormalize = true}`) and nothing is dropped (`Dropless`); with other weights the
/// perceptron's part is scaled by their sum. Optimizer states of the file are left out.
/// Source: Komatsuzaki et al., "Sparse Upcycling", 2022, sections 2 and 3.
/// Errors: io_error as load_checkpoint; also for experts that no perceptron of the file fits, and for tensors
/// that find no place. config_error for noise outside 0 to 1e30. Nothing is changed then.
template <Backend B>
UpcycleReport upcycle(const std::filesystem::path& dense, Parameters<B>& parameters,
                      const UpcycleOptions& options = {}) {
  using T = typename B::Scalar;
  constexpr std::string_view who = "moxie::upcycle";
  if (!(options.noise >= 0 && options.noise <= 1e30))
    throw_config(who, ": noise is ", options.noise, ", expected 0 to 1e30");
  const Safetensors file = Safetensors::read(dense);
  detail::check_version(who, file.file(), file.metadata());
  detail::check_checksum(who, file);
  std::map<std::string_view, const StoredTensor*> unused;
  for (const StoredTensor& t : file.tensors())
    if (!t.name.starts_with('@')) unused.emplace(t.name, &t);

  UpcycleReport report;
  detail::Differences differences;
  B& backend = parameters.backend();
  const auto read = [&backend](ConstVector<B> flat) {
    std::vector<T> host(static_cast<std::size_t>(flat.size));
    if (!host.empty()) backend.copy_to_host(host.data(), flat.data, host.size() * sizeof(T));
    return host;
  };
  std::vector<T> values = read(parameters.values());
  std::vector<T> buffers = read(parameters.buffers());
  const auto take = [&](const ParameterEntry& e, const std::string& name,
                        const std::vector<Index>& shape) -> const StoredTensor* {
    const StoredTensor* t = file.find(name);
    if (t == nullptr) return nullptr;
    unused.erase(t->name);
    if (t->shape == shape && detail::fits<T>(t->type)) return t;
    differences.add("'", name, "' is ", shape_text(t->shape), " of ", name_of(t->type),
                    " in the file, expected ", shape_text(shape), " of ", name_of(tensor_type<T>()),
                    " for '", e.name, "'");
    return t;
  };
  for (const ParameterEntry& e : parameters.entries()) {
    T* const to = (e.trained ? values : buffers).data() + e.offset;
    const auto usable = [&](const StoredTensor* t, Index size) {
      return t->size() == size && detail::fits<T>(t->type);
    };
    if (const StoredTensor* t = take(e, e.name, e.shape)) {
      if (usable(t, e.size())) detail::copy_values(file, *t, to);
      ++report.copied;
      continue;
    }
    const std::string from = detail::dense_name(e.name);
    if (!e.expert_axis) {
      if (from.empty()) {
        differences.add("'", e.name, "' ", shape_text(e.shape), " is missing");
      } else {
        report.kept.push_back(e.name);
      }
      continue;
    }
    const std::vector<Index> shape(e.shape.begin() + 1, e.shape.end());
    const StoredTensor* t = from.empty() ? nullptr : take(e, from, shape);
    if (t == nullptr) {
      differences.add("'", e.name, "' ", shape_text(e.shape),
                      " has nothing to start from: there is no '", from.empty() ? e.name : from,
                      "' ", shape_text(shape));
      continue;
    }
    ++report.repeated;
    const Index size = e.shape[0] == 0 ? 0 : e.size() / e.shape[0];
    if (!usable(t, size)) continue;
    std::vector<T> one(static_cast<std::size_t>(size));
    detail::copy_values(file, *t, one.data());
    detail::repeat_for_experts(e, options, one, to);
  }
  for (const auto& [name, t] : unused)
    differences.add("'", name, "' ", shape_text(t->shape), " finds no place");
  differences.check(who, file.file());

  const Vector<B> writable = parameters.edit();
  if (!values.empty())
    backend.copy_from_host(writable.data, values.data(), values.size() * sizeof(T));
  if (!buffers.empty())
    backend.copy_from_host(parameters.buffers().data, buffers.data(), buffers.size() * sizeof(T));
  return report;
}

}  // namespace moxie
