#include "moxie/dispatch/padded.hpp"

#include <cstdint>
#include <vector>

#include "moxie/testing/dispatcher_laws.hpp"
#include "support/backends.hpp"

namespace moxie::test {
namespace {

TEST_CASE_TEMPLATE("PaddedDispatcher obeys the Dispatcher laws", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const testing::LawReport report = testing::check_dispatcher_laws(backend, PaddedDispatcher{});
  CHECK_MESSAGE(report.passed, report.message);
}

TEST_CASE_TEMPLATE("PaddedDispatcher: rows by hand, two groups, slots that nobody takes", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  // Groups {0, 1} and {2, 3}, two slots an expert in each. Expert 0 gets tokens 0, 2, 3; expert 1
  // token 1; expert 2 nobody.
  testing::SparseFixture<B> f(backend,
                              {.tokens = 4, .experts = 3, .choices = 1, .group = 2, .capacity = 2});
  f.set_choices({0, 1, 0, 0});
  f.set_weights({1, 2, 3, 4});
  f.assign(Dropless{});
  const PaddedDispatcher padded;
  typename PaddedDispatcher::Tape<B> tape;
  const Memory<B> memory(backend, 4096);
  Arena<B> arena(Gradients::all, memory.data(), memory.bytes());
  padded.bind(backend, arena, f.shape(), 1, 1, tape);
  const Buffer<T, B> x(backend, {10, 20, 30, 40});
  const Rows<B> rows = padded.dispatch(backend, f.routing, ConstMatrix<B>(x.view(4, 1)), tape);
  CHECK(rows.each == 4);
  CHECK(rows.rows == 12);
  CHECK(testing::detail::to_host(backend, rows.offset) == std::vector<std::int32_t>{0, 4, 8, 12});
  CHECK(testing::detail::to_host(backend, rows.x) ==
        std::vector<T>{10, 30, 40, 0, 20, 0, 0, 0, 0, 0, 0, 0});

  const Buffer<T, B> out(backend, {1, 2, 3, 99, 4, 99, 99, 99, 99, 99, 99, 99});
  const Buffer<T, B> y(backend, 4, T(7));
  padded.combine(backend, f.routing, ConstMatrix<B>(out.view(12, 1)), y.view(4, 1), tape);
  CHECK(y.to_vector() == std::vector<T>{1, 8, 6, 12});
  const Rows<B> back = padded.combine_backward(backend, f.routing, ConstMatrix<B>(out.view(12, 1)),
                                               ConstMatrix<B>(x.view(4, 1)), f.gradients, tape);
  CHECK(testing::detail::to_host(backend, back.x) ==
        std::vector<T>{10, 90, 160, 0, 40, 0, 0, 0, 0, 0, 0, 0});
  CHECK(back.each == 4);
}

}  // namespace
}  // namespace moxie::test
