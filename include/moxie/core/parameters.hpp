#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/core/host_device.hpp"
#include "moxie/core/initializer.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/core/random.hpp"

namespace moxie {

/// One tensor of a model: its name, logical shape, and where it lies in the flat buffers.
struct ParameterEntry {
  std::string name;          ///< as in V-MoE: "Encoder/encoderblock_5/Moe/Mlp/Dense_0/kernel"
  std::vector<Index> shape;  ///< logical; [E, D, H] with an expert axis
  Initializer initializer{};
  bool expert_axis = false;   ///< the first axis counts experts
  bool same_experts = false;  ///< all experts start alike (V-MoE's parity option)
  bool trained = true;        ///< false: a buffer, saved but without gradient
  Index offset = 0;           ///< first element in the flat values (or buffers)

  Index size() const noexcept {
    Index n = 1;
    for (const Index d : shape) n *= d;
    return n;
  }
  /// As a matrix: the last axis is the columns, the others are folded into the rows.
  Index cols() const noexcept { return shape.empty() ? 1 : shape.back(); }
  Index rows() const noexcept { return cols() == 0 ? 0 : size() / cols(); }
};

/// A part of a model's flat buffers: the shared entries and the entries with an expert axis, which data and
/// expert parallelism reduce over different ranks.
struct ParameterRange {
  struct Run {
    Index first = 0;
    Index size = 0;
  };
  Run shared{};
  Run experts{};
  std::string prefix{};  ///< of the names of its entries
};

namespace detail {
/// Element i of a uniform entry, in each of its equal copies.
template <class T>
struct UniformStart {
  static constexpr bool one_level = true;
  Initializer initializer;
  Random random;
  Index size, copies;
  T* out;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    const T value =
        static_cast<T>(initializer.uniform_value(random, static_cast<std::uint64_t>(i)));
    for (Index c = 0; c < copies; ++c) out[c * size + i] = value;
  }
};
}  // namespace detail

/// The parameters of a model: named entries in one flat buffer of values, one of gradients, and one of buffers
/// that are saved but not trained. Optimizer, checkpoint and gradient check see three vectors.
///
/// Entries are added while layers are constructed, then `initialize` lays them out (shared entries first,
/// entries with an expert axis last) and fills them. A new call of `initialize` refills in place.
template <Backend B>
class Parameters {
  using T = typename B::Scalar;

 public:
  using Id = std::size_t;

  explicit Parameters(B& backend) : backend_(&backend) {}
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  B& backend() const noexcept { return *backend_; }

  /// Declares an entry. Errors: config_error for a name that is taken, or after `initialize`.
  Id add(ParameterEntry entry) {
    if (initialized_)
      throw_config("moxie::Parameters::add: '", entry.name,
                   "' comes after initialize: layers are declared first");
    for (const ParameterEntry& other : entries_)
      if (other.name == entry.name)
        throw_config("moxie::Parameters::add: the name '", entry.name,
                     "' is taken: give each layer its own Scope");
    entries_.push_back(std::move(entry));
    return entries_.size() - 1;
  }

  /// Lays out and fills all entries. Element i of an entry depends on (seed, name, i) only. Blocks.
  void initialize(std::uint64_t seed) {
    if (!initialized_) lay_out();
    ++version_;  // before what may fail halfway
    for (const ParameterEntry& e : entries_)
      if (e.size() > 0) start(e, Random{seed, 0, stream_id(e.name.c_str())});
    backend_->synchronize();
  }

  // Views are asked for a few times a pass: not inlined, they cost each layer a call.

  /// Values of an entry as a matrix (see ParameterEntry::rows). Shape [E*D, H] for an expert kernel [E, D, H].
  /// Errors (of all that give views): config_error before `initialize`.
  [[gnu::noinline]] ConstMatrix<B> value(Id id) const { return matrix(flat(entry(id)), entry(id)); }
  [[gnu::noinline]] ConstVector<B> vector(Id id) const {
    return flat(entry(id)).middle(entry(id).offset, entry(id).size());
  }
  [[gnu::noinline]] Matrix<B> gradient(Id id) const {
    return matrix(laid_out(gradients_), entry(id));
  }
  [[gnu::noinline]] Vector<B> gradient_vector(Id id) const {
    return laid_out(gradients_).middle(entry(id).offset, entry(id).size());
  }
  /// A buffer entry, writable.
  [[gnu::noinline]] Vector<B> buffer(Id id) const {
    return laid_out(buffers_).middle(entry(id).offset, entry(id).size());
  }

  /// All trained values, read-only.
  ConstVector<B> values() const { return values_.view(); }
  /// All trained values, writable; raises the version, so that copies derived from them (packed, narrowed)
  /// count as stale. Values do not change during a pass, and each change asks anew: what is written through an
  /// older view, after a pass, is not seen by such copies.
  Vector<B> edit() {
    ++version_;
    return values_.view();
  }
  Vector<B> gradients() const { return gradients_.view(); }
  Vector<B> buffers() const { return buffers_.view(); }
  std::uint64_t version() const noexcept { return version_; }

  /// Gradients accumulate (+=): call this before the first backward of a step.
  void zero_gradients() {
    backend_->fill(gradients_.view(), T(0));
    for (const std::unique_ptr<StepHook>& hook : hooks_) hook->zero_gradients(*this);
  }

  /// What a layer does to its buffers around each training step (the bias of loss-free balancing).
  class StepHook {
   public:
    virtual ~StepHook() = default;
    /// With the gradients: forgets what was gathered for a step.
    virtual void zero_gradients(const Parameters& parameters) = 0;
    virtual void after_step(const Parameters& parameters) = 0;
    const std::string& prefix() const noexcept { return prefix_; }

   protected:
    explicit StepHook(std::string prefix) : prefix_(std::move(prefix)) {}  ///< of its layer's Scope
    StepHook(const StepHook&) = default;  // not public: a copy would be sliced
    StepHook& operator=(const StepHook&) = default;

   private:
    std::string prefix_;
  };
  void add_hook(std::unique_ptr<StepHook> hook) { hooks_.push_back(std::move(hook)); }
  /// To be called once after each update of the trained values of `range`; train::Step does.
  void after_step(const ParameterRange& range = {}) const {
    for (const std::unique_ptr<StepHook>& hook : hooks_)
      if (lies_in(hook->prefix(), range.prefix)) hook->after_step(*this);
  }

  const std::vector<ParameterEntry>& entries() const noexcept { return entries_; }
  const ParameterEntry& entry(Id id) const { return entries_[id]; }
  Index size() const noexcept { return values_.view().size; }

  /// The entries of the Scope `prefix`: of that name, or with names that go on behind it with a `/` ("" for all).
  /// Errors: config_error if there is none, or if they do not lie together (a prefix must be a Scope's).
  ParameterRange range(std::string_view prefix = "") const {
    ParameterRange r;
    bool found = false;
    for (const ParameterEntry& e : entries_) {
      if (!e.trained || !lies_in(e.name, prefix)) continue;
      found = true;
      ParameterRange::Run& run = e.expert_axis ? r.experts : r.shared;
      if (run.size == 0) run.first = e.offset;
      if (e.offset != run.first + run.size)
        throw_config("moxie::Parameters::range: the entries of '", prefix,
                     "' do not lie together: '", e.name,
                     "' is apart; give the prefix of one Scope");
      run.size += e.size();
    }
    r.prefix = prefix;
    if (!found)
      throw_config("moxie::Parameters::range: there is no trained entry in '", prefix, "'");
    return r;
  }

 private:
  static bool lies_in(std::string_view name, std::string_view scope) {
    if (scope.empty() || !name.starts_with(scope)) return scope.empty();
    return name.size() == scope.size() || scope.back() == '/' || name[scope.size()] == '/';
  }
  void lay_out() {
    Index trained = 0;
    Index buffers = 0;
    for (const bool experts : {false, true})
      for (ParameterEntry& e : entries_) {
        if (e.expert_axis != experts) continue;
        Index& end = e.trained ? trained : buffers;
        e.offset = end;
        end += e.size();
      }
    values_ = Buffer<B, T>(*backend_, trained);
    gradients_ = Buffer<B, T>(*backend_, trained);
    buffers_ = Buffer<B, T>(*backend_, buffers);
    initialized_ = true;
  }
  /// Large kernels are uniform: the backend draws them where they lie. Normal numbers take a logarithm and a cosine, which
  /// have other bits elsewhere, so they come from the host.
  void start(const ParameterEntry& e, const Random& random) {
    const Vector<B> values = flat(e).middle(e.offset, e.size());
    const Index copies = e.expert_axis && e.same_experts ? e.shape[0] : 1;
    const Index own = values.size / copies;
    const Initializer& initializer = e.initializer;
    if (initializer.kind == Initializer::Kind::constant)
      return backend_->fill(values, static_cast<T>(initializer.scale));
    if (initializer.kind == Initializer::Kind::uniform) {
      constexpr Index grain = 4096;
      return backend_->for_each(
          own, detail::UniformStart<T>{initializer, random, own, copies, values.data}, grain);
    }
    std::vector<T> host(static_cast<std::size_t>(values.size));
    for (Index i = 0; i < values.size; ++i)
      host[static_cast<std::size_t>(i)] =
          static_cast<T>(initializer(random, static_cast<std::uint64_t>(i % own)));
    backend_->copy_from_host(values.data, host.data(), host.size() * sizeof(T));
  }
  Vector<B> laid_out(const Buffer<B, T>& buffer) const {
    if (!initialized_)
      throw_config(
          "moxie::Parameters: they are not initialized: call parameters().initialize(seed) once "
          "all layers of the model are declared");
    return buffer.view();
  }
  Vector<B> flat(const ParameterEntry& e) const { return laid_out(e.trained ? values_ : buffers_); }
  static Matrix<B> matrix(Vector<B> flat, const ParameterEntry& e) {
    return {flat.data + e.offset, e.rows(), e.cols()};
  }

  B* backend_;
  std::vector<ParameterEntry> entries_;
  std::vector<std::unique_ptr<StepHook>> hooks_;
  Buffer<B, T> values_, gradients_, buffers_;
  std::uint64_t version_ = 0;
  bool initialized_ = false;
};

/// A place inside a model's parameters: where a layer declares its own. `scope / "Moe"` is the place below.
template <Backend B>
struct Scope {
  std::shared_ptr<Parameters<B>> parameters;
  std::string prefix;

  B& backend() const { return parameters->backend(); }
  [[gnu::cold]] Scope operator/(std::string_view name) const {
    return {parameters, prefix + std::string(name) + "/"};
  }
  [[gnu::cold]] typename Parameters<B>::Id add(std::string_view name, std::vector<Index> shape,
                                               Initializer initializer) const {
    return parameters->add({.name = prefix + std::string(name),
                            .shape = std::move(shape),
                            .initializer = initializer});
  }
  /// A buffer: saved, not trained, zero at first.
  [[gnu::cold]] typename Parameters<B>::Id add_buffer(std::string_view name,
                                                      std::vector<Index> shape) const {
    return parameters->add(
        {.name = prefix + std::string(name), .shape = std::move(shape), .trained = false});
  }
  /// An entry whose first axis counts experts.
  [[gnu::cold]] typename Parameters<B>::Id add_experts(std::string_view name,
                                                       std::vector<Index> shape,
                                                       Initializer initializer,
                                                       bool same_experts) const {
    return parameters->add({.name = prefix + std::string(name),
                            .shape = std::move(shape),
                            .initializer = initializer,
                            .expert_axis = true,
                            .same_experts = same_experts});
  }
};

/// The outermost scope of a new model.
template <Backend B>
Scope<B> root(B& backend) {
  return {std::make_shared<Parameters<B>>(backend), ""};
}

}  // namespace moxie
