#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "fixtures.hpp"
#include "vmoe/data/image_codec.hpp"

namespace image_codec_test {

using fixtures::Containing;
using fixtures::flat;
using fixtures::pattern;
using vmoe::Bytes;
using vmoe::ImageShape;

namespace {

Bytes decoded(const Bytes& file, const ImageShape& shape) {
  Bytes pixels(vmoe::to_size(shape.values()), 99);
  vmoe::decode_image(file, "f", shape, pixels);
  return pixels;
}

std::string decode_error(const Bytes& file) {
  try {
    const ImageShape shape = vmoe::image_shape(file, "f");
    Bytes pixels(vmoe::to_size(shape.values()));
    vmoe::decode_image(file, "f", shape, pixels);
  } catch (const moxie::io_error& error) {
    return error.what();
  }
  return "";
}

Bytes first(const Bytes& bytes, std::size_t size) {
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)};
}

}  // namespace

TEST_CASE("PNG gives its very pixels") {
  for (const vmoe::Index channels : {1, 3}) {
    const fixtures::Picture picture = pattern(5, 7, channels, 3);
    const Bytes file = fixtures::png(picture);
    CHECK(vmoe::image_shape(file, "f") == ImageShape{5, 7, channels});
    CHECK(decoded(file, {5, 7, channels}) == picture.pixels);
  }
}

TEST_CASE("transparent PNG pixels lie over black") {
  fixtures::Picture picture = flat(1, 2, 4, 200);
  picture.pixels[3] = 255;
  picture.pixels[7] = 0;
  const Bytes file = fixtures::png(picture);
  CHECK(vmoe::image_shape(file, "f") == ImageShape{1, 2, 3});
  CHECK(decoded(file, {1, 2, 3}) == Bytes{200, 200, 200, 0, 0, 0});
}

TEST_CASE("JPEG gives nearly its pixels") {
  for (const bool progressive : {false, true}) {
    for (const vmoe::Index channels : {1, 3}) {
      fixtures::Picture picture = flat(16, 24, channels, 0);
      for (std::size_t k = 0; k < picture.pixels.size(); ++k)
        picture.pixels[k] = static_cast<std::uint8_t>(40 + k / 8);  // smooth
      const Bytes file = fixtures::jpeg(picture, progressive);
      CHECK(vmoe::image_shape(file, "f") == ImageShape{16, 24, channels});
      const Bytes pixels = decoded(file, {16, 24, channels});
      for (std::size_t k = 0; k < pixels.size(); ++k) {
        const int error = std::abs(int{pixels[k]} - int{picture.pixels[k]});
        if (error > 12) CHECK(error <= 12);
      }
    }
  }
}

TEST_CASE("grey images can be decoded to three equal channels") {
  const fixtures::Picture picture = flat(2, 2, 1, 77);
  CHECK(decoded(fixtures::png(picture), {2, 2, 3}) == Bytes(12, 77));
  CHECK(decoded(fixtures::jpeg(picture), {2, 2, 3}) == Bytes(12, 77));
}

TEST_CASE("decoding to another shape is refused") {
  Bytes pixels(4);
  const Bytes file = fixtures::png(flat(2, 2, 3, 1));
  CHECK_THROWS_WITH_AS(vmoe::decode_image(file, "f", {2, 2, 1}, pixels),
                       "vmoe::load_dataset: f: the image is 2x2x3, expected 2x2x1",
                       moxie::io_error);
}

TEST_CASE("an image cut anywhere is refused") {
  const fixtures::Picture picture = pattern(16, 16, 3, 1);
  for (const Bytes& file :
       {fixtures::png(picture), fixtures::jpeg(picture), fixtures::jpeg(picture, true)}) {
    for (std::size_t size = 0; size < file.size(); ++size) {
      const std::string text = decode_error(first(file, size));
      if (text.find("vmoe::load_dataset: f: ") != 0 || text.find("expected") == std::string::npos) {
        CAPTURE(size);
        CHECK(text == Containing("vmoe::load_dataset: f: "));
        CHECK(text == Containing("expected"));
      }
    }
  }
}

TEST_CASE("truncated images say what they are") {
  const Bytes png = fixtures::png(pattern(16, 16, 3, 1));
  CHECK(decode_error(first(png, png.size() - 12)) ==
        "vmoe::load_dataset: f: truncated or corrupt PNG (the file ends before its last chunk), "
        "expected a complete image");
  const Bytes jpeg = fixtures::jpeg(pattern(16, 16, 3, 1));
  CHECK(decode_error(first(jpeg, jpeg.size() - 20)) ==
        "vmoe::load_dataset: f: truncated or corrupt JPEG (Premature end of JPEG file), expected a "
        "complete image");
}

TEST_CASE("any damaged byte of an image gives pixels or an error and never a crash") {
  const fixtures::Picture picture = pattern(16, 16, 3, 1);
  for (const Bytes& file :
       {fixtures::png(picture), fixtures::jpeg(picture), fixtures::jpeg(picture, true)}) {
    for (const unsigned change : {0x01U, 0x80U, 0xffU}) {
      for (std::size_t at = 0; at < file.size(); ++at) {
        Bytes damaged = file;
        damaged[at] = static_cast<std::uint8_t>(damaged[at] ^ change);
        const std::string text = decode_error(damaged);
        if (!text.empty() && text.find("expected") == std::string::npos) CHECK(text == "");
      }
    }
  }
}

TEST_CASE("a damaged PNG is found by its checksums") {
  Bytes file = fixtures::png(pattern(16, 16, 3, 1));
  const std::string data = "IDAT";
  const auto at = std::search(file.begin(), file.end(), data.begin(), data.end());
  *(at + 20) ^= 1U;
  CHECK(decode_error(file) == Containing("truncated or corrupt PNG ("));
}

TEST_CASE("an image whose header asks for gigabytes is refused") {
  Bytes file = fixtures::jpeg(flat(8, 8, 1, 5));
  const std::array<std::uint8_t, 2> frame = {0xff, 0xc0};
  const auto at = std::search(file.begin(), file.end(), frame.begin(), frame.end());
  *(at + 5) = 0xff;  // height
  CHECK(decode_error(file) ==
        "vmoe::load_dataset: f: the image is 65288x8 pixels, expected 1x1 to 4096x4096");
}

TEST_CASE("a JPEG in CMYK is refused") {
  CHECK(decode_error(fixtures::jpeg(flat(8, 8, 4, 5))) ==
        "vmoe::load_dataset: f: the JPEG is in CMYK colours, expected grey or RGB");
}

}  // namespace image_codec_test
