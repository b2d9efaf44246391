#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "moxie/core/memory.hpp"
#include "moxie/io/safetensors.hpp"
#include "moxie/routing/record.hpp"

/// Routes of MoE layers in one file: a safetensors file with the tensors "<layer>/choice" (I32 [T, K], entries as those of
/// Routes::choice) and "<layer>/weight" (F32 or F64 [T, K]) for layers 0, 1, ..., whose T and K may differ.
namespace moxie {

/// Routes of one MoE layer in host memory, row-major.
template <class T>
struct HostRoutes {
  Index tokens = 0;
  Index choices = 0;  ///< K
  /// [tokens, choices] experts, -1 = none, or dropped_route(expert)
  std::vector<std::int32_t> choice;
  std::vector<T> weight;  ///< [tokens, choices]; for DeviceRoutes also empty: 1 for each choice

  friend bool operator==(const HostRoutes&, const HostRoutes&) = default;
};

/// Collects what MoE layers decided, drops as dropped_route(expert): visit a model with it after a forward, then
/// save_routes(path, recorder.routes). Blocks.
/// Errors: config_error for a layer where experts choose or that is soft: its tokens have no K choices.
template <Backend B>
class RouteRecorder final : public RoutingVisitor<B> {
  using T = typename B::Scalar;

 public:
  explicit RouteRecorder(B& backend) : backend_(&backend) {}

  std::vector<HostRoutes<T>> routes;  ///< one for each MoE layer that was visited

  void sparse(const SparseRouting<B>& r) override {
    if (r.first)
      throw_config("moxie::RouteRecorder: in MoE layer ", routes.size(),
                   " experts choose, tokens have no list of K choices that could be recorded");
    const auto n = static_cast<std::size_t>(r.choice.size());
    HostRoutes<T> own{r.choice.rows, r.choice.cols, std::vector<std::int32_t>(n),
                      std::vector<T>(n)};
    std::vector<std::int32_t> row(n);
    copy(own.choice, r.choice.data);
    copy(own.weight, r.weight.data);
    copy(row, r.row.data);
    for (std::size_t a = 0; a < n; ++a) {
      if (own.choice[a] < 0) {
        own.weight[a] = 0;
      } else if (row[a] < 0) {
        own.choice[a] = dropped_route(own.choice[a]);
      }
    }
    routes.push_back(std::move(own));
  }
  void soft(const SoftRouting<B>&) override {
    throw_config("moxie::RouteRecorder: MoE layer ", routes.size(),
                 " is soft: its tokens have no list of K choices that could be recorded");
  }

 private:
  template <class V>
  void copy(std::vector<V>& to, const V* from) const {
    if (!to.empty()) backend_->copy_to_host(to.data(), from, to.size() * sizeof(V));
  }
  B* backend_;
};

namespace detail {
/// @throws config_error unless layer `i` has the entries its sizes promise
template <class T>
void check_routes(const char* who, std::size_t i, const HostRoutes<T>& own, bool may_lack_weight) {
  const auto n = own.tokens < 0 || own.choices < 0
                     ? std::size_t(-1)
                     : static_cast<std::size_t>(own.tokens * own.choices);
  const bool weighted = own.weight.size() == n || (may_lack_weight && own.weight.empty());
  if (own.choice.size() != n || !weighted)
    throw_config(who, ": layer ", i, " has ", own.choice.size(), " choices and ", own.weight.size(),
                 " weights, expected [", own.tokens, " x ", own.choices, "] of both");
}
}  // namespace detail

/// Routes in a backend's memory: what Pass::routes and ReplayRouter take.
template <Backend B>
class DeviceRoutes {
  using T = typename B::Scalar;

 public:
  /// @throws config_error for a layer whose sizes do not fit together
  DeviceRoutes(B& backend, const std::vector<HostRoutes<T>>& layers) {
    for (const HostRoutes<T>& own : layers) {
      detail::check_routes("moxie::DeviceRoutes", routes_.size(), own, true);
      const Index n = own.tokens * own.choices;
      Routes<B> routes;
      routes.choice = {copy(backend, choice_, own.choice), own.tokens, own.choices};
      if (n > 0 && own.weight.empty()) {
        routes.weights = Routes<B>::Weights::unit;
      } else {
        routes.weights = Routes<B>::Weights::given;
        routes.weight = {copy(backend, weight_, own.weight), own.tokens, own.choices};
      }
      routes_.push_back(routes);
    }
  }
  /// One for each layer, with given weights, or with unit weights if it has none. Valid as long as this object.
  std::span<const Routes<B>> layers() const { return routes_; }

 private:
  template <class V>
  static const V* copy(B& backend, std::vector<Buffer<B, V>>& to, const std::vector<V>& from) {
    const Buffer<B, V>& memory = to.emplace_back(backend, static_cast<Index>(from.size()));
    if (!from.empty())
      backend.copy_from_host(memory.view().data, from.data(), from.size() * sizeof(V));
    return memory.view().data;
  }
  std::vector<Buffer<B, std::int32_t>> choice_;
  std::vector<Buffer<B, T>> weight_;
  std::vector<Routes<B>> routes_;
};

/// Errors: config_error for sizes that do not fit together; io_error where the file cannot be written: one that was
/// there is then untouched.
template <class T>
void save_routes(const std::filesystem::path& path, const std::vector<HostRoutes<T>>& layers,
                 const Metadata& metadata = {}) {
  std::vector<TensorToWrite> tensors;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const HostRoutes<T>& own = layers[i];
    detail::check_routes("moxie::save_routes", i, own, false);
    const std::string name = std::to_string(i);
    tensors.push_back(
        TensorToWrite::of(name + "/choice", {own.tokens, own.choices}, own.choice.data()));
    tensors.push_back(
        TensorToWrite::of(name + "/weight", {own.tokens, own.choices}, own.weight.data()));
  }
  write_safetensors(path, tensors, metadata);
}

/// The routes of all layers of a file. Weights of another width are converted.
/// Errors: io_error for a file that is damaged (see Safetensors), has no routes or other tensors, or whose shapes and types
/// are not those of routes; it names the file and the tensor.
template <class T>
std::vector<HostRoutes<T>> load_routes(const std::filesystem::path& path) {
  const Safetensors file = Safetensors::read(path);
  const auto fail = [&](const auto&... what) {
    throw_io("moxie::load_routes: '", file.file(), "': ", what...);
  };
  const std::size_t count = file.tensors().size() / 2;
  if (count == 0) fail("there are no routes, expected '0/choice' and '0/weight'");
  std::vector<HostRoutes<T>> layers;
  for (std::size_t i = 0; i < count; ++i) {
    const auto take = [&](const char* what) {
      const std::string name = std::to_string(i) + what;
      const StoredTensor* t = file.find(name);
      if (t == nullptr) fail("'", name, "' is missing");
      if (t->shape.size() != 2)
        fail("'", name, "' is ", shape_text(t->shape), ", expected [tokens, choices]");
      return t;
    };
    const StoredTensor* choice = take("/choice");
    const StoredTensor* weight = take("/weight");
    if (weight->shape != choice->shape)
      fail("'", weight->name, "' is ", shape_text(weight->shape), ", expected ",
           shape_text(choice->shape), ", the shape of '", choice->name, "'");
    HostRoutes<T> own{choice->shape[0], choice->shape[1], file.values<std::int32_t>(*choice), {}};
    const auto convert = [&](const auto& values) {
      for (const auto v : values) own.weight.push_back(static_cast<T>(v));
    };
    if (weight->type == TensorType::f32) {
      convert(file.values<float>(*weight));
    } else {
      convert(file.values<double>(*weight));  // throws for any other type
    }
    layers.push_back(std::move(own));
  }
  for (const StoredTensor& t : file.tensors()) {
    bool known = false;
    for (std::size_t i = 0; i < count; ++i)
      known = known || t.name == std::to_string(i) + "/choice" ||
              t.name == std::to_string(i) + "/weight";
    if (!known) fail("'", t.name, "' ", shape_text(t.shape), " is unexpected");
  }
  return layers;
}

}  // namespace moxie
