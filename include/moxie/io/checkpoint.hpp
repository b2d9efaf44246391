#pragma once

#include <span>

#include "moxie/core/parameters.hpp"
#include "moxie/io/checksum.hpp"
#include "moxie/io/safetensors.hpp"
#include "moxie/optimizer/concept.hpp"

/// A training run in one file: all values and buffers of a model, the states of optimizers, and
/// free text. It is a safetensors file whose tensors are called and shaped like the model's
/// entries; an optimizer's are called "@<state>/<moment>/<entry>".
namespace moxie {

/// An optimizer's state under the name it has in the file; a model with two optimizers has two.
template <class S>
struct NamedState {
  std::string_view name;
  S& state;
};
template <class S>
NamedState(std::string_view, S&) -> NamedState<S>;
template <class S>
NamedState(const char*, S&) -> NamedState<S>;

namespace detail {

inline constexpr std::string_view checkpoint_key = "moxie.checkpoint";
inline constexpr std::string_view checkpoint_version = "1";
inline constexpr std::string_view checksum_key = "moxie.checksum";
inline constexpr std::string_view load_checkpoint_name = "moxie::load_checkpoint";

/// A flat vector that is saved from `from` and restored to `to`, laid out like the trained entries
/// or the buffers.
template <Backend B>
struct CheckpointPart {
  std::string prefix;
  ConstVector<B> from;
  Vector<B> to;
  bool trained;
};

inline std::string state_prefix(std::string_view state) {
  if (state.empty() || state.find('/') != std::string_view::npos)
    throw_config("moxie::NamedState: the name '", state, "' is empty or has a '/'");
  return message("@", state, "/");
}

template <Backend B, class S>
void add_parts(std::vector<CheckpointPart<B>>& parts, const NamedState<S>& named) {
  for (const Moment<B>& moment : named.state.moments())
    parts.push_back({state_prefix(named.name) + std::string(moment.name) + "/", moment.values,
                     moment.values, true});
}

/// Of names, bytes and free text, whatever the order in the file.
inline std::string checkpoint_checksum(
    std::vector<std::pair<std::string_view, std::span<const std::byte>>> tensors,
    const Metadata& metadata) {
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  Checksum sum;
  for (const auto& [name, bytes] : tensors) {
    sum.add(name);
    sum.add(bytes.data(), bytes.size());
  }
  for (const auto& [key, value] : metadata) {
    if (key == checksum_key) continue;
    sum.add(key);
    sum.add(value);
  }
  return sum.text();
}

/// Writes copies of flat vectors, and the steps under their names in the file.
template <Backend B>
void save_parts(const std::filesystem::path& path, const Parameters<B>& parameters,
                const std::vector<CheckpointPart<B>>& parts,
                const std::vector<std::pair<std::string, std::int64_t>>& steps, Metadata metadata) {
  using T = typename B::Scalar;
  for (const auto& [key, value] : metadata)
    if (key.starts_with("moxie."))
      throw_config("moxie::save_checkpoint: the metadata key '", key, "' begins with 'moxie.'");

  std::vector<std::vector<T>> host;
  std::vector<TensorToWrite> tensors;
  for (const CheckpointPart<B>& part : parts) {
    std::vector<T>& copy = host.emplace_back(static_cast<std::size_t>(part.from.size));
    if (!copy.empty())
      parameters.backend().copy_to_host(copy.data(), part.from.data, copy.size() * sizeof(T));
    for (const ParameterEntry& e : parameters.entries())
      if (e.trained == part.trained)
        tensors.push_back(TensorToWrite::of(part.prefix + e.name, e.shape, copy.data() + e.offset));
  }
  for (const auto& [name, step] : steps) tensors.push_back(TensorToWrite::of(name, {}, &step));

  std::vector<std::pair<std::string_view, std::span<const std::byte>>> content;
  for (const TensorToWrite& t : tensors) {
    std::size_t bytes = size_of(t.type);
    for (const Index d : t.shape) bytes *= static_cast<std::size_t>(d);
    content.emplace_back(t.name, std::span(static_cast<const std::byte*>(t.data), bytes));
  }
  metadata.emplace(checkpoint_key, checkpoint_version);
  metadata.emplace(checksum_key, checkpoint_checksum(std::move(content), metadata));
  write_safetensors(path, tensors, metadata);
}

/// Of this and what follows, `who` is the function of the user's that the error names.
inline void check_version(std::string_view who, std::string_view file, const Metadata& metadata) {
  const auto version = metadata.find(std::string(checkpoint_key));
  if (version != metadata.end() && version->second != checkpoint_version)
    throw_io(who, ": '", file, "' has version '", version->second, "', expected '",
             checkpoint_version, "'");
}

/// A file of another origin has no checksum, and is taken by its names and shapes.
inline void check_checksum(std::string_view who, const Safetensors& file) {
  const Metadata& metadata = file.metadata();
  const auto expected = metadata.find(std::string(checksum_key));
  if (expected == metadata.end()) {
    if (metadata.contains(std::string(checkpoint_key)))
      throw_io(who, ": '", file.file(), "' is damaged: it has no checksum");
    return;
  }
  std::vector<std::pair<std::string_view, std::span<const std::byte>>> content;
  for (const StoredTensor& t : file.tensors()) content.emplace_back(t.name, file.bytes(t));
  const std::string sum = checkpoint_checksum(std::move(content), metadata);
  if (sum != expected->second)
    throw_io(who, ": '", file.file(), "' is damaged: its checksum is ", sum, ", expected ",
             expected->second);
}

/// What does not fit between a file and a model, in words.
class Differences {
 public:
  template <class... Parts>
  void add(const Parts&... parts) {
    constexpr int shown = 8;
    if (++count_ <= shown) text_.append(count_ > 1 ? "; " : "").append(message(parts...));
    if (count_ > shown) more_ = message("; and ", count_ - shown, " more");
  }
  void check(std::string_view who, std::string_view file) const {
    if (count_ > 0) throw_io(who, ": '", file, "' does not fit the model: ", text_, more_);
  }

 private:
  int count_ = 0;
  std::string text_, more_;
};

/// Whether elements of a file become T without loss.
template <class T>
bool fits(TensorType type) {
  return type == tensor_type<T>() || (std::same_as<T, double> && type == TensorType::f32);
}

template <class T>
void copy_values(const Safetensors& file, const StoredTensor& t, T* to) {
  if (t.type == tensor_type<T>()) {
    if (t.size() > 0) std::memcpy(to, file.bytes(t).data(), file.bytes(t).size());
  } else {
    const std::vector<float> narrow = file.values<float>(t);
    for (const float value : narrow) *to++ = static_cast<T>(value);
  }
}

/// Restores flat vectors and gives the steps of the states whose names in the file begin with
/// `prefixes`, once all of it is known to fit.
template <Backend B>
std::vector<std::uint64_t> load_parts(const Safetensors& file, Parameters<B>& parameters,
                                      std::vector<CheckpointPart<B>>& parts,
                                      const std::vector<std::string>& prefixes) {
  using T = typename B::Scalar;
  std::map<std::string_view, const StoredTensor*> stored;
  for (const StoredTensor& t : file.tensors()) stored.emplace(t.name, &t);
  Differences differences;
  const auto take = [&](const std::string& name, const std::vector<Index>& shape) {
    const auto found = stored.find(name);
    const StoredTensor* t = found == stored.end() ? nullptr : found->second;
    if (t == nullptr) {
      differences.add("'", name, "' ", shape_text(shape), " is missing");
    } else {
      stored.erase(found);
    }
    return t;
  };

  std::vector<std::vector<T>> host;
  for (const CheckpointPart<B>& part : parts) {
    std::vector<T>& copy = host.emplace_back(static_cast<std::size_t>(part.from.size));
    for (const ParameterEntry& e : parameters.entries()) {
      if (e.trained != part.trained) continue;
      const std::string name = part.prefix + e.name;
      const StoredTensor* t = take(name, e.shape);
      if (t == nullptr) continue;
      if (t->shape != e.shape) {
        differences.add("'", name, "' is ", shape_text(t->shape), " in the file, expected ",
                        shape_text(e.shape));
      } else if (!fits<T>(t->type)) {
        differences.add("'", name, "' holds ", name_of(t->type), ", expected ",
                        name_of(tensor_type<T>()));
      } else {
        copy_values(file, *t, copy.data() + e.offset);
      }
    }
  }
  std::vector<std::uint64_t> steps;
  for (const std::string& prefix : prefixes) {
    const StoredTensor* t = take(prefix + "step", {});
    if (t == nullptr) continue;
    const bool is_number = t->type == TensorType::i64 && t->shape.empty();
    const std::int64_t step = is_number ? file.values<std::int64_t>(*t).front() : -1;
    if (step < 0) differences.add("'", t->name, "' is no count of steps");
    steps.push_back(static_cast<std::uint64_t>(step));
  }
  for (const auto& [name, t] : stored) {
    bool asked_for = !name.starts_with('@');
    for (const std::string& prefix : prefixes) asked_for = asked_for || name.starts_with(prefix);
    if (asked_for) differences.add("'", name, "' ", shape_text(t->shape), " is unexpected");
  }
  differences.check(load_checkpoint_name, file.file());

  parts.front().to = parameters.edit();
  for (std::size_t i = 0; i < parts.size(); ++i)
    if (!host[i].empty())
      parameters.backend().copy_from_host(parts[i].to.data, host[i].data(),
                                          host[i].size() * sizeof(T));
  return steps;
}

}  // namespace detail

/// Writes everything that `load_checkpoint` needs to go on bit for bit. `metadata` may hold a
/// configuration as JSON, the step, the seed; keys that begin with "moxie." are taken. Blocks, and
/// takes host memory for what it writes.
///
///   save_checkpoint(path, model.parameters(), {{"config", json}},
///                   NamedState{"optimizer", step.optimizer_state()});
///
/// Errors: io_error with the system's text where the file cannot be written: the old one is then
/// untouched; config_error for a name or key that is taken.
template <Backend B, class... S>
void save_checkpoint(const std::filesystem::path& path, const Parameters<B>& parameters,
                     const Metadata& metadata, const NamedState<S>&... states) {
  std::vector<detail::CheckpointPart<B>> parts{{"", parameters.values(), {}, true},
                                               {"", parameters.buffers(), {}, false}};
  (detail::add_parts(parts, states), ...);
  std::vector<std::pair<std::string, std::int64_t>> steps;
  (steps.emplace_back(detail::state_prefix(states.name) + "step",
                      static_cast<std::int64_t>(states.state.step())),
   ...);
  detail::save_parts(path, parameters, parts, steps, metadata);
}

/// Restores a model and the named optimizer states, and returns the metadata. A state of the file
/// that is not asked for is left out; without states, any file of tensors with the model's names
/// will do. A file of floats fills a model of doubles. Blocks.
/// Errors: io_error for a file that is damaged (see Safetensors; a checksum finds the rest), and
/// for one of another model, which says of each tensor that is missing, unexpected or of another
/// shape what was expected. Nothing is changed then.
template <Backend B, class... S>
Metadata load_checkpoint(const std::filesystem::path& path, Parameters<B>& parameters,
                         const NamedState<S>&... states) {
  const Safetensors file = Safetensors::read(path);
  detail::check_version(detail::load_checkpoint_name, file.file(), file.metadata());
  detail::check_checksum(detail::load_checkpoint_name, file);
  std::vector<detail::CheckpointPart<B>> parts{
      {"", parameters.values(), {}, true}, {"", parameters.buffers(), parameters.buffers(), false}};
  (detail::add_parts(parts, states), ...);
  const std::vector<std::string> prefixes{detail::state_prefix(states.name)...};
  const auto steps = detail::load_parts(file, parameters, parts, prefixes);
  [[maybe_unused]] auto step = steps.begin();
  (states.state.restore_step(*step++), ...);

  Metadata metadata = file.metadata();
  metadata.erase(std::string(detail::checkpoint_key));
  metadata.erase(std::string(detail::checksum_key));
  return metadata;
}

/// The metadata alone, without reading the tensors: a configuration is needed before there is a
/// model to load into.
/// Errors: io_error for a file that is no checkpoint or has a damaged header.
inline Metadata read_checkpoint_metadata(const std::filesystem::path& path) {
  Metadata metadata = Safetensors::read_metadata(path);
  detail::check_version("moxie::read_checkpoint_metadata", path.string(), metadata);
  metadata.erase(std::string(detail::checkpoint_key));
  metadata.erase(std::string(detail::checksum_key));
  return metadata;
}

}  // namespace moxie
