#include "moxie/core/arena.hpp"

#include <doctest/doctest.h>

#include "moxie/backend/cpu.hpp"
#include "moxie/core/memory.hpp"

namespace arena_test {

using namespace moxie;
using B = CpuBackend<float>;

namespace {

std::string message_of(Arena<B>& arena, Index floats) {
  try {
    arena.scratch<float>(floats);
  } catch (const shape_error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("saved memory grows from below and scratch from above") {
  B backend;
  const Memory<B> memory(backend, 2048);
  Arena<B> arena(Gradients::all, memory.data(), memory.bytes());
  const auto* base = reinterpret_cast<float*>(memory.data());
  CHECK(arena.saved<float>(1).data == base);
  CHECK(arena.saved<float>(65).data == base + 64);          // 256 bytes each
  CHECK(arena.scratch<float>(10).data == base + 512 - 64);  // the last 256 of 2048 bytes
  CHECK(arena.saved<float>(2, 3).data == base + 192);
  CHECK(arena.peak() == 256 + 512 + 256 + 256);
}

TEST_CASE("a Scope gives its scratch back and keeps what was saved") {
  B backend;
  const Memory<B> memory(backend, 1024);
  Arena<B> arena(Gradients::all, memory.data(), memory.bytes());
  const float* first = nullptr;
  {
    const Arena<B>::Scope scope(arena);
    first = arena.scratch<float>(100).data;
    arena.saved<float>(1);
  }
  CHECK(arena.scratch<float>(100).data == first);
  CHECK(arena.saved<float>(1).data == reinterpret_cast<float*>(memory.data()) + 64);
  CHECK(arena.peak() == 1024);
}

TEST_CASE("what is saved falls to scratch when no gradient needs it") {
  B backend;
  const Memory<B> memory(backend, 4096);
  const auto from_below = [&](Gradients gradients, auto take) {
    Arena<B> arena(gradients, memory.data(), memory.bytes());
    return static_cast<const void*>(take(arena)) == memory.data();
  };
  const auto saved = [](Arena<B>& a) { return a.saved<float>(4, 4).data; };
  const auto for_weights = [](Arena<B>& a) { return a.saved_for_weights<float>(4, 4).data; };
  const auto kept = [](Arena<B>& a) { return a.kept<float>(4, 4).data; };
  CHECK(from_below(Gradients::all, saved));
  CHECK(from_below(Gradients::input, saved));
  CHECK_FALSE(from_below(Gradients::none, saved));
  CHECK(from_below(Gradients::all, for_weights));
  CHECK_FALSE(from_below(Gradients::input, for_weights));
  CHECK(from_below(Gradients::all, kept));
  CHECK(from_below(Gradients::none, kept));
}

TEST_CASE("an arena that measures asks for exactly what the real one uses") {
  B backend;
  const auto bind = [](Arena<B>& arena, Index seed) {
    Index n = seed;
    std::vector<const void*> places;
    for (int layer = 0; layer < 20; ++layer) {
      const Arena<B>::Scope scope(arena);
      n = (n * 37 + 11) % 101;
      places.push_back(arena.saved<float>(n).data);
      places.push_back(arena.scratch<double>(n, 3).data);
      places.push_back(arena.kept<char>(n).data);
      places.push_back(arena.saved_for_weights<float>(n, 2).data);
      Arena<B> inner = arena.block(512);
      if (n > 0) places.push_back(inner.saved<float>(n).data);
    }
    return places;
  };
  for (const Gradients gradients : {Gradients::all, Gradients::input, Gradients::none})
    for (Index seed = 0; seed < 20; ++seed) {
      Arena<B> measured(gradients);
      for (const void* p : bind(measured, seed)) CHECK(p == nullptr);
      const Memory<B> memory(backend, measured.peak());
      Arena<B> arena(gradients, memory.data(), memory.bytes());
      const auto places = bind(arena, seed);
      CHECK(arena.peak() == measured.peak());
      arena.rewind();
      CHECK(bind(arena, seed) == places);
    }
}

TEST_CASE("an exhausted arena says how much was wanted and left") {
  B backend;
  const Memory<B> memory(backend, 1024);
  Arena<B> arena(Gradients::all, memory.data(), memory.bytes());
  arena.saved<float>(70);
  CHECK(message_of(arena, 129) ==
        "moxie::Arena: exhausted: 768 bytes wanted, 512 of 1024 left; was the tape bound for fewer "
        "rows than this pass has?");
  CHECK(message_of(arena, 128).empty());
  CHECK(message_of(arena, 1).starts_with("moxie::Arena: exhausted: 256 bytes wanted, 0 of 1024"));
}

}  // namespace arena_test
