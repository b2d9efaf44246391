#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "moxie/core/memory.hpp"
#include "moxie/io/safetensors.hpp"
#include "moxie/routing/record.hpp"

/// Routes of MoE layers in one file: a safetensors file with the tensors "<layer>/choice" (I32 [T, K], -1 = none) and
/// "<layer>/weight" (F32 or F64 [T, K]) for layers 0, 1, ..., whose T and K may differ.
namespace moxie {

/// Routes of one MoE layer in host memory, row-major.
template <class T>
struct HostRoutes {
  Index tokens = 0;
  Index choices = 0;                 ///< K
  std::vector<std::int32_t> choice;  ///< [tokens, choices] experts, -1 = none
  std::vector<T> weight;             ///< [tokens, choices]

  friend bool operator==(const HostRoutes&, const HostRoutes&) = default;
};

/// Collects what MoE layers decided, drops as -1: visit a model with it after a forward, then save_routes(path,
/// recorder.routes). Blocks.
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
    for (std::size_t a = 0; a < n; ++a)
      if (row[a] < 0) {
        own.choice[a] = -1;
        own.weight[a] = 0;
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

/// Routes in a backend's memory: what Pass::routes and ReplayRouter take.
template <Backend B>
class DeviceRoutes {
  using T = typename B::Scalar;

 public:
  DeviceRoutes(B& backend, const std::vector<HostRoutes<T>>& layers) {
    for (const HostRoutes<T>& own : layers) {
      const Index n = own.tokens * own.choices;
      Buffer<B, std::int32_t>& choice = choice_.emplace_back(backend, n);
      Buffer<B, T>& weight = weight_.emplace_back(backend, n);
      if (n > 0) {
        backend.copy_from_host(choice.view().data, own.choice.data(),
                               own.choice.size() * sizeof(std::int32_t));
        backend.copy_from_host(weight.view().data, own.weight.data(),
                               own.weight.size() * sizeof(T));
      }
      routes_.push_back({.choice = {choice.view().data, own.tokens, own.choices},
                         .weight = {weight.view().data, own.tokens, own.choices},
                         .weights = Routes<B>::Weights::given});
    }
  }
  /// One for each layer, with given weights. Valid as long as this object.
  std::span<const Routes<B>> layers() const { return routes_; }

 private:
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
    const auto n = static_cast<std::size_t>(own.tokens * own.choices);
    if (own.choice.size() != n || own.weight.size() != n)
      throw_config("moxie::save_routes: layer ", i, " has ", own.choice.size(), " choices and ",
                   own.weight.size(), " weights, expected [", own.tokens, " x ", own.choices,
                   "] of both");
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
    for (const std::int32_t e : own.choice)
      if (e < -1) fail("'", choice->name, "' has ", e, ", expected experts from 0, or -1 for none");
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
