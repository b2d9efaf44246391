#include "moxie/expert/networks.hpp"

#include "layer/branches.hpp"
#include "moxie/backend/cpu/eigen_product.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/nn/vit.hpp"
#include "moxie/testing/expert_laws.hpp"

using namespace moxie;
using namespace moxie::test;

namespace {

struct MakeMlp {
  Index width = 5, hidden = 6, output = 5;

  template <Backend B>
  Mlp<B> operator()(const Scope<B>& scope) const {
    return {scope, width, hidden, output};
  }
  friend bool operator==(const MakeMlp&, const MakeMlp&) = default;
};

enum class Kind {
  mlp,
  vit,
  moe,
  moe_of_networks,
  few_slots,  // memory that is not linear in the rows
  different
};
constexpr Index pixels = 16;
constexpr Index classes = 3;

/// Networks of 16 pixels to 3 classes, of a kind chosen when the test runs.
template <class B>
AnyLayer<B> make_kind(const Scope<B>& scope, Kind kind) {
  switch (kind) {
    case Kind::mlp:
      return Mlp<B>(scope, pixels, 6, classes);
    case Kind::vit:
      return Vit<B>(scope, {.image_height = 4,
                            .image_width = 4,
                            .channels = 1,
                            .patch = 2,
                            .width = 4,
                            .blocks = 1,
                            .heads = 2,
                            .hidden = 5,
                            .classes = classes});
    case Kind::moe:
      return plain_moe(scope, pixels, classes, 0);
    case Kind::moe_of_networks:
      return MoeLayer{scope, MoeShape{.width = pixels, .experts = 3}, TopKRouter{.k = 2},
                      Dropless{}, Networks{MakeMlp{pixels, 4, classes}, classes}};
    case Kind::few_slots:
      return MoeLayer{scope, MoeShape{.width = pixels, .experts = 3}, TopKRouter{.k = 2},
                      FixedCapacity{2}, FeedForward<Gelu>{.hidden = 6, .output = classes}};
    case Kind::different:
      break;
  }
  const char last = scope.prefix[scope.prefix.size() - 2];  // "…/2/" is a network's scope
  return make_kind(scope, static_cast<Kind>((last - '0') % 5));
}
struct MakeKind {
  Kind kind;

  template <Backend B>
  AnyLayer<B> operator()(const Scope<B>& scope) const {
    return make_kind(scope, kind);
  }
};
template <class B>
using OfKind = MoeLayer<B, TopKRouter, Dropless, Networks<MakeKind>>;

template <class B>
OfKind<B> mixture_of(B& backend, Kind kind, Index experts = 3) {
  return {backend, MoeShape{.width = pixels, .experts = experts, .seed = 7},
          TopKRouter{.k = 2, .renormalize = true}, Dropless{}, Networks<MakeKind>{{kind}, classes}};
}

}  // namespace

TEST_CASE_TEMPLATE("Networks obeys the Expert laws", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  for (const Index output : {5, 3}) {
    const testing::LawReport report = testing::check_expert_laws(
        backend, Networks{MakeMlp{.output = output}, output}, {.cases = 30});
    CHECK_MESSAGE(report.passed, report.message);
  }
}

TEST_CASE_TEMPLATE("Networks of Mlp, of Vit and of MoE layers have the right gradients", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  for (const Kind kind :
       {Kind::mlp, Kind::vit, Kind::moe, Kind::moe_of_networks, Kind::different}) {
    CAPTURE(static_cast<int>(kind));
    check_layer(mixture_of(backend, kind, kind == Kind::different ? 5 : 3), 7);
  }
}

TEST_CASE_TEMPLATE("a mixture of networks is the weighted sum of what they give alone", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  for (const Kind kind : {Kind::vit, Kind::moe}) {
    CAPTURE(static_cast<int>(kind));
    const Index rows = 9;
    const OfKind<B> mixture = mixture_of(backend, kind);
    // The head of a Vit starts at 0.
    testing::detail::from_host(backend, mixture.parameters().edit(),
                               normals(mixture.parameters().size(), 4));
    const std::vector<double> values =
        testing::detail::to_host(backend, mixture.parameters().values());
    const std::vector<double> x = normals(rows * pixels, 1);
    const testing::detail::OwnedMatrix<B> in(backend, rows, pixels, x);
    const testing::detail::OwnedMatrix<B> out(backend, rows, classes);
    auto tape = mixture.make_tape(rows);
    mixture.forward(in.read(), out.view(), tape, {});
    test::Buffer<std::int32_t, B> choice(backend, rows * 2, 0);
    test::Buffer<double, B> weight(backend, rows * 2, 0);
    mixture.record(tape, choice.view(rows, 2), weight.view(rows, 2));

    std::vector<double> wanted(static_cast<std::size_t>(rows * classes), 0);
    for (Index e = 0; e < 3; ++e) {
      const auto scope = root(backend);
      const AnyLayer<B> alone = make_kind(scope / std::to_string(e), kind);
      scope.parameters->initialize(0);
      std::vector<double> own(static_cast<std::size_t>(scope.parameters->size()));
      for (const ParameterEntry& entry : scope.parameters->entries())
        for (const ParameterEntry& from : mixture.parameters().entries())
          if (from.name == entry.name)
            std::copy_n(values.begin() + from.offset, from.size(), own.begin() + entry.offset);
      testing::detail::from_host(backend, scope.parameters->edit(), own);
      const std::vector<double> y = outputs(alone, x);
      // An inner mixture routes each row by itself, so that the rows of others do not matter.
      for (Index r = 0; r < rows; ++r)
        for (Index k = 0; k < 2; ++k) {
          const auto a = static_cast<std::size_t>(r * 2 + k);
          if (choice.to_vector()[a] != e) continue;
          for (Index c = 0; c < classes; ++c)
            wanted[static_cast<std::size_t>(r * classes + c)] +=
                weight.to_vector()[a] * y[static_cast<std::size_t>(r * classes + c)];
        }
    }
    CHECK(testing::detail::all_near(out.get(), wanted, 1e-12));
  }
}

TEST_CASE("Networks' memory suffices for any load, and a pass allocates nothing") {
  using B = CpuBackend<double>;
  B backend;
  const Index experts = 5;
  testing::detail::Draw draw(3);
  for (const Kind kind :
       {Kind::mlp, Kind::vit, Kind::moe, Kind::moe_of_networks, Kind::few_slots, Kind::different})
    for (const Gradients gradients : {Gradients::all, Gradients::input, Gradients::none})
      for (const Index rows : {1, 3, 23, 64}) {
        CAPTURE(static_cast<int>(kind));
        CAPTURE(static_cast<int>(gradients));
        CAPTURE(rows);
        const Networks<MakeKind> networks{{kind}, classes};
        const auto scope = root(backend);
        Networks<MakeKind>::State<B> state;
        Networks<MakeKind>::Tape<B> tape;
        networks.declare(scope, ExpertShape{experts, pixels}, state);
        const Parameters<B>& p = *scope.parameters;
        scope.parameters->initialize(1);
        Arena<B> measured(gradients);
        networks.bind(backend, measured, p, state, rows, tape);
        const Memory<B> memory(backend, measured.peak());
        Arena<B> arena(gradients, memory.data(), memory.bytes());
        networks.bind(backend, arena, p, state, rows, tape);
        const testing::detail::OwnedMatrix<B> x(backend, rows, pixels, draw.normals(rows * pixels));
        const testing::detail::OwnedMatrix<B> dx(backend, rows, pixels);
        const testing::detail::OwnedMatrix<B> y(backend, rows, classes);
        test::Buffer<std::int32_t, B> offset(backend, experts + 1, 0);
        std::vector<std::int32_t> load(static_cast<std::size_t>(experts) + 1);
        const int before = allocations();
        for (int number = 0; number < 25; ++number) {
          // Cuts at random places: near each other, far apart, or all the rows to one expert.
          const auto end = static_cast<std::int32_t>(number % 3 == 0 ? draw.from(0, rows) : rows);
          for (std::size_t e = 1; e < load.size(); ++e)
            load[e] = static_cast<std::int32_t>(
                number % 5 == 0 ? (draw.chance(0.5) ? end : 0)
                                : draw.from(0, number % 2 == 0 ? end : (end + 3) / 4));
          load.back() = end;
          std::sort(load.begin(), load.end());
          backend.copy_from_host(offset.view().data, load.data(), load.size() * sizeof(load[0]));
          const Rows<B> in{x.read(), {}, {}, offset.view(), rows};
          const Rows<B> dy{y.read(), {}, {}, offset.view(), rows};
          networks.forward(backend, p, state, in, y.view(), tape, {.gradients = gradients});
          if (gradients != Gradients::none)
            networks.backward(backend, p, state, in, dy, dx.view(), tape, gradients);
        }
        CHECK(allocations() == before);
      }
}

TEST_CASE("a network whose memory grows in steps may not fit, which is said before y is written") {
  using B = CpuBackend<double>;
  B backend(CpuOptions{
      .product = &eigen_products});  // whose products of experts work in no memory of the tape
  // 8 slots for up to 128 rows: 8 rows already fill what 128 rows fill.
  const auto make = [](const Scope<B>& scope) {
    return MoeLayer{scope, MoeShape{.width = 2, .experts = 8}, TopKRouter{.k = 1},
                    CapacityFactor{.factor = 1.0 / 16}, FeedForward<Gelu>{.hidden = 64}};
  };
  const Networks networks{make};
  using X = std::remove_const_t<decltype(networks)>;
  const Index rows = 1280;
  const Index experts = 10;
  const auto scope = root(backend);
  X::State<B> state;
  X::Tape<B> tape;
  networks.declare(scope, ExpertShape{experts, 2}, state);
  scope.parameters->initialize(1);
  const Parameters<B>& p = *scope.parameters;
  Arena<B> measured(Gradients::all);
  networks.bind(backend, measured, p, state, rows, tape);
  const Memory<B> memory(backend, measured.peak());
  Arena<B> arena(Gradients::all, memory.data(), memory.bytes());
  networks.bind(backend, arena, p, state, rows, tape);
  const testing::detail::OwnedMatrix<B> x(backend, rows, 2, normals(rows * 2, 1));
  const testing::detail::OwnedMatrix<B> y(
      backend, rows, 2, std::vector<double>(static_cast<std::size_t>(rows * 2), 9));
  const auto run = [&](Index each) {
    std::vector<std::int32_t> load;
    for (Index e = 0; e < experts; ++e) load.push_back(static_cast<std::int32_t>(e * each));
    load.push_back(static_cast<std::int32_t>(rows));
    test::Buffer<std::int32_t, B> offset(backend, load);
    const Rows<B> in{x.read(), {}, {}, offset.view(), rows};
    return message_of<shape_error>(
        [&] { networks.forward(backend, p, state, in, y.view(), tape, {}); });
  };
  CHECK(run(8).starts_with("moxie::Arena: exhausted: "));
  CHECK(y.get() == std::vector<double>(static_cast<std::size_t>(rows * 2), 9));
  CHECK(run(rows / experts) == "no error");
}

TEST_CASE("three levels of mixtures run 200 random passes in one arena without an allocation") {
  using B = CpuBackend<double>;
  B backend;
  const OfKind<B> mixture = mixture_of(backend, Kind::moe_of_networks, 4);
  const Index rows = 24;
  auto tape = mixture.make_tape(rows);
  testing::detail::Draw draw(1);
  testing::detail::OwnedMatrix<B> x(backend, rows, pixels);
  const testing::detail::OwnedMatrix<B> dx(backend, rows, pixels);
  const testing::detail::OwnedMatrix<B> y(backend, rows, classes);
  Index largest = 0;
  for (int number = 0; number < 200; ++number) {
    std::vector<double> values = draw.normals(rows * pixels);
    for (double& v : values)
      v *= number % 5;  // 0: all tokens are alike, and go to the same experts
    x.set(values);
    testing::detail::from_host(backend, mixture.parameters().edit(),
                               draw.normals(mixture.parameters().size()));
    const Index used = number % 4 == 0 ? draw.from(1, rows) : rows;
    const int before = allocations();
    mixture.forward(x.read().top(used), y.view().top(used), tape, {});
    mixture.backward(y.read().top(used), dx.view().top(used), tape);
    REQUIRE(allocations() == before);
    const auto offset = testing::detail::to_host(backend, tape->routing.offset);
    for (std::size_t e = 1; e < offset.size(); ++e)
      largest = (std::max)(largest, Index{offset[e] - offset[e - 1]});
  }
  CHECK(largest == rows);
}

namespace {

/// Gives its input, and notes what passes told it.
template <class B>
class Listener {
 public:
  using BackendType = B;
  struct Tape {};

  Listener(const Scope<B>& scope, std::vector<Pass<B>>& heard)
      : parameters_(scope.parameters), heard_(&heard) {}
  Index input_width() const { return 2; }
  Index output_width() const { return 2; }
  void bind(Arena<B>&, Index, Tape&) const {}
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape&, const Pass<B>& pass) const {
    heard_->push_back(pass);
    parameters().backend().copy(y.data, x.data,
                                static_cast<std::size_t>(x.size()) * sizeof(double));
  }
  void backward(ConstMatrix<B>, Matrix<B>, Tape&) const {}
  Parameters<B>& parameters() const { return *parameters_; }

 private:
  std::shared_ptr<Parameters<B>> parameters_;
  std::vector<Pass<B>>* heard_;
};

}  // namespace

TEST_CASE("a pass reaches networks without what speaks of the outer tokens, and with own seeds") {
  using B = CpuBackend<double>;
  B backend;
  std::vector<Pass<B>> heard;
  const auto make = [&heard](const Scope<B>& scope) { return Listener<B>(scope, heard); };
  const MoeLayer mixture{backend, MoeShape{.width = 2, .experts = 2}, TopKRouter{.k = 2},
                         Dropless{}, Networks{make}};
  const testing::detail::OwnedMatrix<B> x(backend, 3, 2, normals(6, 1));
  const testing::detail::OwnedMatrix<B> y(backend, 3, 2);
  test::Buffer<std::int32_t, B> mask(backend, {1, 0, 1});
  auto tape = mixture.make_tape(3);
  const auto run = [&](const Pass<B>& pass) {
    heard.clear();
    mixture.forward(x.read(), y.view(), tape, pass);
    REQUIRE(heard.size() == 2);
    return std::pair(heard[0].seed, heard[1].seed);
  };
  const Routes<B> replayed[6] = {};
  const auto first = run({.mode = Mode::eval,
                          .seed = 3,
                          .step = 11,
                          .progress = 0.25,
                          .first_token = 6,
                          .regularizers = false,
                          .mask = mask.view(),
                          .routes = replayed,
                          .moe_layer = 4});
  for (const Pass<B>& pass : heard) {
    CHECK(pass.mode == Mode::eval);
    CHECK(pass.step == 11);
    CHECK(pass.progress == 0.25);
    CHECK_FALSE(pass.regularizers);
    CHECK_FALSE(pass.mask);
    CHECK(pass.routes.empty());
    CHECK(pass.moe_layer == 0);
    CHECK(pass.first_token == 0);
  }
  const auto same = run({.seed = 3, .step = 12, .first_token = 6, .moe_layer = 4});
  CHECK(same == first);
  CHECK(first.first != first.second);
  CHECK(run({.seed = 4, .first_token = 6, .moe_layer = 4}) != first);
  CHECK(run({.seed = 3, .first_token = 7, .moe_layer = 4}) != first);
  CHECK(run({.seed = 3, .first_token = 6, .moe_layer = 5}) != first);
}

TEST_CASE("Networks names its networks by number and says which has other widths") {
  using B = CpuBackend<double>;
  B backend;
  const auto scope = root(backend);
  Networks<MakeMlp>::State<B> state;
  Networks{MakeMlp{}}.declare(scope / "Moe", ExpertShape{2, 5}, state);
  REQUIRE(scope.parameters->entries().size() == 8);
  CHECK(scope.parameters->entries()[0].name == "Moe/0/Dense_0/kernel");
  CHECK(scope.parameters->entries()[4].name == "Moe/1/Dense_0/kernel");
  CHECK(Networks{MakeMlp{}} == Networks{MakeMlp{}});
  CHECK_FALSE(Networks{MakeMlp{}} == Networks{MakeMlp{}, 3});

  const auto text = [&](const auto& networks) {
    typename std::remove_cvref_t<decltype(networks)>::template State<B> own;
    return message_of<config_error>([&] {
      networks.declare(root(backend), ExpertShape{2, 5}, own);
    });
  };
  CHECK(text(Networks{MakeMlp{.width = 6}}) ==
        "moxie::Networks: network 0 maps rows of 6 to rows of 5, expected 5 (the width of a token) "
        "to 5 (output is 0: the width of a token)");
  CHECK(text(Networks{MakeMlp{.output = 4}, 3}) ==
        "moxie::Networks: network 0 maps rows of 5 to rows of 4, expected 5 (the width of a token) "
        "to 3 (output)");
  const auto growing = [](const Scope<B>& at) {
    return Mlp<B>(at, 5, 4, at.prefix == "0/" ? 3 : 4);
  };
  CHECK(text(Networks{growing, 3}) ==
        "moxie::Networks: network 1 maps rows of 5 to rows of 4, expected 5 (the width of a token) "
        "to 3 (output)");
  const auto apart = [&](const Scope<B>&) { return Mlp<B>(root(backend), 5, 4, 5); };
  CHECK(text(Networks{apart}) ==
        "moxie::Networks: network 0 has parameters of its own, expected them in the scope that "
        "make was given");
}
