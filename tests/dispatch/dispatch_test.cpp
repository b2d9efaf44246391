#include <doctest/doctest.h>

#include "moxie/dispatch/einsum.hpp"
#include "moxie/dispatch/gather.hpp"
#include "moxie/testing/dispatcher_laws.hpp"
#include "support/backends.hpp"

using namespace moxie;

namespace {

/// Token 0 goes to expert 1 with weight 2; token 1 to experts 0 (weight 3) and 1 (dropped); token 2
/// nowhere.
template <class B>
struct Routed {
  explicit Routed(B& backend)
      : f(backend, {.tokens = 3, .experts = 2, .choices = 2, .capacity = 1}) {
    f.set_choices({1, -1, 0, 1, -1, -1});
    f.set_weights({2, 0, 3, 5, 0, 0});
    f.assign(Dropless{});
  }
  testing::SparseFixture<B> f;
};

template <class T>
std::vector<double> doubles(const std::vector<T>& v) {
  return {v.begin(), v.end()};
}

}  // namespace

TEST_CASE_TEMPLATE("dispatch and combine by hand, with a drop and a token without experts", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Routed<B> routed(backend);
  SparseRouting<B>& r = routed.f.routing;
  CHECK(routed.f.rows() == std::vector<std::int32_t>{1, -1, 0, -1, -1, -1});

  const GatherDispatcher gather;
  typename GatherDispatcher::Tape<B> tape;
  const Memory<B> memory(backend, 4096);
  Arena<B> arena(Gradients::all, memory.data(), memory.bytes());
  gather.bind(backend, arena, r.shape, 2, 2, tape);
  test::Buffer<typename B::Scalar, B> x(backend, {1, 2, 3, 4, 5, 6});
  const Rows<B> rows = gather.dispatch(backend, r, ConstMatrix<B>(x.view(3, 2)), tape);
  CHECK(rows(0, 0) == 3);  // expert 0: token 1
  CHECK(rows(1, 1) == 2);  // expert 1: token 0

  test::Buffer<typename B::Scalar, B> out(backend, {10, 20, 30, 40});
  test::Buffer<typename B::Scalar, B> y(backend, 6, 99);
  gather.combine(backend, r, ConstMatrix<B>(out.view(2, 2)), y.view(3, 2), tape);
  CHECK(doubles(y.to_vector()) == std::vector<double>{60, 80, 30, 60, 0, 0});

  test::Buffer<typename B::Scalar, B> dy(backend, {1, 1, 2, 0, 7, 7});
  const Rows<B> back =
      gather.combine_backward(backend, r, ConstMatrix<B>(out.view(2, 2)),
                              ConstMatrix<B>(dy.view(3, 2)), routed.f.gradients, tape);
  CHECK(back(0, 0) == 6);  // 3 * dy[1]
  CHECK(back(1, 1) == 2);  // 2 * dy[0]
  CHECK(doubles(testing::detail::to_host(backend, routed.f.gradients.weight)) ==
        std::vector<double>{70, 0, 20, 0, 0, 0});

  test::Buffer<typename B::Scalar, B> dx(backend, 6, 99);
  gather.dispatch_backward(backend, r, ConstMatrix<B>(out.view(2, 2)), dx.view(3, 2),
                           routed.f.gradients, tape);
  CHECK(doubles(dx.to_vector()) == std::vector<double>{30, 40, 10, 20, 0, 0});
}

TEST_CASE_TEMPLATE("GatherDispatcher obeys the Dispatcher laws", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const testing::LawReport report = testing::check_dispatcher_laws(backend, GatherDispatcher{});
  CHECK_MESSAGE(report.passed, report.message);
}

TEST_CASE("EinsumDispatcher obeys the Dispatcher laws") {
  CpuBackend<double> backend;
  const testing::LawReport report = testing::check_dispatcher_laws(backend, EinsumDispatcher{});
  CHECK_MESSAGE(report.passed, report.message);
}

namespace {

/// Forgets the weights on the way back.
struct Unweighted : GatherDispatcher {
  template <Backend B>
  Rows<B> combine_backward(B& b, const SparseRouting<B>& r, ConstMatrix<B> rows, ConstMatrix<B> dy,
                           RoutingGradients<SparseRouting<B>>& g, Tape<B>& tape) const {
    Rows<B> back = GatherDispatcher::combine_backward(b, r, rows, dy, g, tape);
    back.scale = {};
    return back;
  }
};

}  // namespace

TEST_CASE("the Dispatcher laws find a dispatcher that breaks them") {
  CpuBackend<double> backend;
  const testing::LawReport report =
      testing::check_dispatcher_laws(backend, Unweighted{}, {.cases = 20});
  CHECK(report.message.find("<combine(rows), dy> is not <rows, combine_backward(dy)> (case ") !=
        std::string::npos);
  CHECK(report.message.find("dx is not that of the einsum oracle") != std::string::npos);
  CHECK(report.message.find("y is not that") == std::string::npos);
}
