#include "moxie/vision/stacked_pairs.hpp"

#include <doctest/doctest.h>

using namespace moxie;

namespace {
using Table = std::vector<std::int32_t>;
}

TEST_CASE("partners become rows of the batch, without those that have none") {
  Table pairs;
  append_pairs(Table{2, -1, 2, 0}, {.tokens_per_image = 4}, 1, 0, false, pairs);
  CHECK(pairs == Table{4, 2, 6, 2, 7, 0});
  append_pairs(Table{-1, -1, -1, 3}, {.tokens_per_image = 4}, 2, 3, false, pairs);
  CHECK(pairs == Table{4, 2, 6, 2, 7, 0, 11, 15});
}

TEST_CASE("a class token shifts patches by one, and makes a pair if wanted") {
  Table pairs;
  append_pairs(Table{2, -1, 2, 0}, {.tokens_per_image = 5, .class_token = true}, 0, 1, false,
               pairs);
  CHECK(pairs == Table{1, 8, 3, 8, 4, 6});
  pairs.clear();
  append_pairs(Table{-1, 1, -1, -1}, {.tokens_per_image = 5, .class_token = true}, 3, 2, true,
               pairs);
  CHECK(pairs == Table{15, 10, 17, 12});
}

TEST_CASE("partners that are no tokens of the image are refused") {
  Table pairs;
  CHECK_THROWS_WITH_AS(
      append_pairs(Table{0, 0, 0}, {.tokens_per_image = 3, .class_token = true}, 0, 1, true, pairs),
      "moxie::append_pairs: partners has 3 entries, expected at most 2, the patches of an image "
      "(layout.tokens_per_image)",
      shape_error);
  CHECK_THROWS_WITH_AS(
      append_pairs(Table{0, 3}, {.tokens_per_image = 3}, 0, 1, false, pairs),
      "moxie::append_pairs: a partner is 3, expected less than 3, the patches of an "
      "image (layout.tokens_per_image)",
      shape_error);
  CHECK_THROWS_WITH_AS(append_pairs(Table{0}, {.tokens_per_image = 3}, 0, 1, true, pairs),
                       "moxie::append_pairs: class_pair is set, expected layout.class_token too",
                       config_error);
  CHECK(pairs.empty());
}
