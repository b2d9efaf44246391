#include "image_codec.hpp"

#include <png.h>

#include <csetjmp>
#include <cstddef>
#include <cstdio>  // jpeglib.h needs it

#include <jpeglib.h>

#include <algorithm>
#include <array>

#include "moxie/core/error.hpp"

namespace vmoe {
namespace {

[[noreturn]] void damaged(const std::string& name, const char* kind, const char* text) {
  moxie::throw_io("vmoe::load_dataset: ", name, ": truncated or corrupt ", kind, " (", text,
                  "), expected a complete image");
}

void check_size(const std::string& name, Index height, Index width) {
  if (height < 1 || width < 1 || height > largest_side || width > largest_side) {
    moxie::throw_io("vmoe::load_dataset: ", name, ": the image is ", height, "x", width,
                    " pixels, expected 1x1 to ", largest_side, "x", largest_side);
  }
}

// ---- JPEG. libjpeg reports errors by a callback that must not return: the functions below that
// call setjmp own nothing, so that a jump leaves nothing behind.

struct JpegErrors {
  jpeg_error_mgr base;  // first, as libjpeg hands back a pointer to it
  std::jmp_buf jump;
  char text[JMSG_LENGTH_MAX];
};

[[noreturn]] void stop_jpeg(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  errors->base.format_message(jpeg, errors->text);
  std::longjmp(errors->jump, 1);
}

void on_jpeg_message(j_common_ptr jpeg, int level) {
  if (level < 0) stop_jpeg(jpeg);  // a warning: damaged data; others are traces
}

// A small progressive file may hold thousands of scans of a large image and take minutes.
void limit_scans(j_common_ptr jpeg) {
  constexpr int most_scans = 200;
  if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number <= most_scans) return;
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  std::snprintf(errors->text, sizeof(errors->text), "more than %d scans", most_scans);
  std::longjmp(errors->jump, 1);
}

bool read_jpeg_header(jpeg_decompress_struct& jpeg, JpegErrors& errors, const std::uint8_t* data,
                      unsigned long size) {
  if (setjmp(errors.jump) != 0) return false;
  jpeg_create_decompress(&jpeg);
  jpeg_mem_src(&jpeg, data, size);
  jpeg_read_header(&jpeg, TRUE);
  return true;
}

bool read_jpeg_pixels(jpeg_decompress_struct& jpeg, JpegErrors& errors, jpeg_progress_mgr& progress,
                      int channels, std::uint8_t* pixels) {
  if (setjmp(errors.jump) != 0) return false;
  jpeg.progress = &progress;
  jpeg.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_start_decompress(&jpeg);
  const std::size_t stride = std::size_t{jpeg.output_width} * static_cast<std::size_t>(channels);
  while (jpeg.output_scanline < jpeg.output_height) {
    JSAMPROW row = pixels + jpeg.output_scanline * stride;
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_decompress(&jpeg);  // also reads the end marker, which a cut file lacks
  return true;
}

class Jpeg {
 public:
  Jpeg(ByteView file, const std::string& name) : name_(name) {
    jpeg_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = stop_jpeg;
    errors_.base.emit_message = on_jpeg_message;
    if (!read_jpeg_header(jpeg_, errors_, file.data(), file.size())) {
      jpeg_destroy_decompress(&jpeg_);
      damaged(name_, "JPEG", errors_.text);
    }
  }
  ~Jpeg() { jpeg_destroy_decompress(&jpeg_); }
  Jpeg(const Jpeg&) = delete;
  Jpeg& operator=(const Jpeg&) = delete;

  ImageShape shape() const {
    if (jpeg_.jpeg_color_space == JCS_CMYK || jpeg_.jpeg_color_space == JCS_YCCK) {
      moxie::throw_io("vmoe::load_dataset: ", name_,
                      ": the JPEG is in CMYK colours, expected grey or RGB");
    }
    const auto height = static_cast<Index>(jpeg_.image_height);
    const auto width = static_cast<Index>(jpeg_.image_width);
    check_size(name_, height, width);
    return {height, width, jpeg_.num_components == 1 ? 1 : 3};
  }

  void decode(Index channels, std::uint8_t* pixels) {
    progress_.progress_monitor = limit_scans;
    if (!read_jpeg_pixels(jpeg_, errors_, progress_, static_cast<int>(channels), pixels))
      damaged(name_, "JPEG", errors_.text);
  }

 private:
  const std::string& name_;
  JpegErrors errors_{};
  jpeg_progress_mgr progress_{};
  jpeg_decompress_struct jpeg_{};
};

// ---- PNG.

/// libpng stops reading after the last pixel: a file cut after that, or in its last chunk, would
/// pass.
void check_png_end(ByteView file, const std::string& name) {
  std::size_t at = 8;  // signature
  for (;;) {
    constexpr std::size_t frame = 12;  // length, type, checksum
    if (file.size() - at < frame) break;
    const ByteView head = file.subspan(at, 8);
    const std::size_t length = (std::size_t{head[0]} << 24U) | (std::size_t{head[1]} << 16U) |
                               (std::size_t{head[2]} << 8U) | std::size_t{head[3]};
    if (file.size() - at - frame < length) break;
    constexpr std::array<std::uint8_t, 4> end = {'I', 'E', 'N', 'D'};
    if (std::equal(end.begin(), end.end(), head.begin() + 4)) return;
    at += frame + length;
  }
  damaged(name, "PNG", "the file ends before its last chunk");
}

class Png {
 public:
  Png(ByteView file, const std::string& name) : name_(name) {
    image_.version = PNG_IMAGE_VERSION;
    if (png_image_begin_read_from_memory(&image_, file.data(), file.size()) == 0)
      damaged(name_, "PNG", image_.message);  // libpng has freed its part
    check_png_end_or_free(file);
  }
  ~Png() { png_image_free(&image_); }
  Png(const Png&) = delete;
  Png& operator=(const Png&) = delete;

  ImageShape shape() const {
    const auto height = static_cast<Index>(image_.height);
    const auto width = static_cast<Index>(image_.width);
    check_size(name_, height, width);
    return {height, width, (image_.format & PNG_FORMAT_FLAG_COLOR) != 0U ? 3 : 1};
  }

  void decode(Index channels, std::uint8_t* pixels) {
    image_.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
    const png_color black{0, 0, 0};
    if (png_image_finish_read(&image_, &black, pixels, 0, nullptr) == 0)
      damaged(name_, "PNG", image_.message);
  }

 private:
  void check_png_end_or_free(ByteView file) {
    try {
      check_png_end(file, name_);
    } catch (...) {
      png_image_free(&image_);  // the constructor has not finished, so the destructor will not run
      throw;
    }
  }

  const std::string& name_;
  png_image image_{};
};

bool is_jpeg(ByteView file) {
  return file.size() >= 3 && file[0] == 0xff && file[1] == 0xd8 && file[2] == 0xff;
}

bool is_png(ByteView file) {
  constexpr std::array<std::uint8_t, 8> magic = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  return file.size() >= magic.size() && std::equal(magic.begin(), magic.end(), file.begin());
}

[[noreturn]] void neither(ByteView file, const std::string& name) {
  if (file.empty())
    moxie::throw_io("vmoe::load_dataset: ", name, ": the file is empty, expected an image");
  moxie::throw_io("vmoe::load_dataset: ", name, ": neither PNG nor JPEG (starts with ",
                  first_bytes(file), "), expected one of them");
}

}  // namespace

ImageShape image_shape(ByteView file, const std::string& name) {
  if (is_jpeg(file)) return Jpeg(file, name).shape();
  if (is_png(file)) return Png(file, name).shape();
  neither(file, name);
}

void decode_image(ByteView file, const std::string& name, const ImageShape& shape,
                  std::span<std::uint8_t> pixels) {
  const auto decode = [&](auto&& image) {
    const ImageShape found = image.shape();
    if (found.height != shape.height || found.width != shape.width ||
        found.channels > shape.channels || pixels.size() != to_size(shape.values())) {
      moxie::throw_io("vmoe::load_dataset: ", name, ": the image is ", found.height, "x",
                      found.width, "x", found.channels, ", expected ", shape.height, "x",
                      shape.width, "x", shape.channels);
    }
    image.decode(shape.channels, pixels.data());
  };
  if (is_jpeg(file)) return decode(Jpeg(file, name));
  if (is_png(file)) return decode(Png(file, name));
  neither(file, name);
}

}  // namespace vmoe
