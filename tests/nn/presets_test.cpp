#include "moxie/nn/presets.hpp"

#include <doctest/doctest.h>

using namespace moxie;
using Blocks = std::vector<Index>;

TEST_CASE("Placements name the blocks of the papers") {
  CHECK(every_n(2, 12) == Blocks{1, 3, 5, 7, 9, 11});
  CHECK(every_n(3, 8) == Blocks{2, 5});
  CHECK(every_n(1, 3) == Blocks{0, 1, 2});
  CHECK(last_n(2, 8) == Blocks{5, 7});
  CHECK(last_n(2, 7) == Blocks{3, 5});
  CHECK(last_odd(2, 8) == Blocks{4, 6});
  CHECK(last_odd(4, 7) == Blocks{0, 2, 4, 6});
  CHECK(consecutive_last(6, 12) == Blocks{6, 7, 8, 9, 10, 11});
}

TEST_CASE("Placements say how many blocks there are") {
  CHECK_THROWS_WITH_AS(last_n(5, 8),
                       "moxie::last_n: n is 5, expected 1 to 4, the blocks it can take of 8",
                       config_error);
  CHECK_THROWS_WITH_AS(
      every_n(0, 8), "moxie::every_n: n is 0, expected 1 to 8, the number of blocks", config_error);
  CHECK_THROWS_WITH_AS(
      consecutive_last(9, 8),
      "moxie::consecutive_last: n is 9, expected 1 to 8, the blocks it can take of 8",
      config_error);
}

TEST_CASE("Presets have the sizes of the specification") {
  const auto sizes = [](const char* name, Index width, Index blocks, Index hidden, Index heads) {
    const VitConfig c = vit_preset(name);
    CAPTURE(name);
    CHECK(c.width == width);
    CHECK(c.blocks == blocks);
    CHECK(c.hidden == hidden);
    CHECK(c.heads == heads);
  };
  sizes("vmoe-s", 512, 8, 2048, 8);
  sizes("vmoe-b", 768, 12, 3072, 12);
  sizes("vmoe-l", 1024, 24, 4096, 16);
  sizes("vmoe-h", 1280, 32, 5120, 16);
  sizes("prc-t", 384, 8, 1024, 4);
  sizes("ti", 192, 12, 768, 3);
  sizes("s", 384, 12, 1536, 6);
  sizes("b", 768, 12, 3072, 12);
  sizes("l", 1024, 24, 4096, 16);
  sizes("h", 1280, 32, 5120, 16);
  sizes("nano", 64, 4, 128, 4);
  for (const VitPreset& p : vit_presets()) CHECK_NOTHROW(check(p.config));
  CHECK(vit_preset("vmoe-s").moe_blocks == Blocks{5, 7});
  CHECK(vit_preset("vmoe-s").tokens() == 50);
  CHECK(vit_preset("nano").tokens() == 64);
}

TEST_CASE("A preset of an unknown name lists those there are") {
  CHECK_THROWS_WITH_AS(
      vit_preset("vmoe-x"),
      "moxie::vit_preset: name is 'vmoe-x', expected one of: nano, vmoe-s, vmoe-b, "
      "vmoe-l, vmoe-h, prc-t, ti, s, b, l, h",
      config_error);
}
