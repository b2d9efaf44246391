// Ends with 0 if a step of a layer gave numbers, and an error went to the handler, then to standard error, then to
// std::terminate.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <moxie/backend/thread_pool.hpp>
#include <moxie/moxie.hpp>
#include <string_view>
#include <vector>

namespace {
bool named = false;

void read_message(const moxie::error& e) {
  named = std::string_view(e.what()).find("7") != std::string_view::npos;
}
[[noreturn]] void end() { std::_Exit(named ? 0 : 1); }
}  // namespace

int main() {
  moxie::ThreadPool pool{2};
  moxie::CpuBackend<float> cpu{pool};
  const moxie::MoeLayer layer{cpu,
                              {.width = 8, .experts = 4},
                              moxie::TopKRouter{.k = 2},
                              moxie::Dropless{},
                              moxie::FeedForward<moxie::Gelu>{.hidden = 16}};
  auto tape = layer.make_tape(16);
  std::vector<float> x(16 * 8, 0.5F), y(x.size()), dy(x.size(), 0.1F), dx(x.size());
  layer.forward({x.data(), 16, 8}, {y.data(), 16, 8}, tape, {.mode = moxie::Mode::train});
  layer.backward({dy.data(), 16, 8}, {dx.data(), 16, 8}, tape);
  if (!std::isfinite(y[0]) || y[0] == 0 || dx[0] == 0) return 2;

  if (moxie::set_error_handler(read_message) != nullptr) return 3;
  std::set_terminate(end);
  layer.forward({x.data(), 16, 7}, {y.data(), 16, 8}, tape, {});
  return 4;
}
