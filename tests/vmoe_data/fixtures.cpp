#include "fixtures.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <png.h>
#include <stdlib.h>
#include <zlib.h>

#include <cstdio>  // jpeglib.h needs it

#include <jpeglib.h>

#include <fstream>
#include <stdexcept>

#include "vmoe/data/dataset.hpp"

namespace fixtures {
namespace {

void require(bool success, const char* what) {
  if (!success) throw std::runtime_error(what);
}

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "vmoe_data_XXXXXX").string();
  require(mkdtemp(name.data()) != nullptr, "mkdtemp");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Picture flat(Index height, Index width, Index channels, std::uint8_t value) {
  return {height, width, channels, Bytes(vmoe::to_size(height * width * channels), value)};
}

Picture pattern(Index height, Index width, Index channels, std::uint8_t salt) {
  Picture picture = flat(height, width, channels, 0);
  for (std::size_t k = 0; k < picture.pixels.size(); ++k)
    picture.pixels[k] = static_cast<std::uint8_t>(7 * k + salt);
  return picture;
}

Bytes png(const Picture& picture) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.height = static_cast<png_uint_32>(picture.height);
  image.width = static_cast<png_uint_32>(picture.width);
  constexpr png_uint_32 formats[] = {PNG_FORMAT_GRAY, PNG_FORMAT_GA, PNG_FORMAT_RGB,
                                     PNG_FORMAT_RGBA};
  image.format = formats[picture.channels - 1];
  png_alloc_size_t size = 0;
  require(png_image_write_to_memory(&image, nullptr, &size, 0, picture.pixels.data(), 0, nullptr),
          "png size");
  Bytes bytes(size);
  require(
      png_image_write_to_memory(&image, bytes.data(), &size, 0, picture.pixels.data(), 0, nullptr),
      "png");
  bytes.resize(size);
  return bytes;
}

Bytes jpeg(const Picture& picture, bool progressive) {
  jpeg_compress_struct out{};
  jpeg_error_mgr errors{};
  out.err = jpeg_std_error(&errors);
  jpeg_create_compress(&out);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&out, &memory, &size);
  out.image_width = static_cast<JDIMENSION>(picture.width);
  out.image_height = static_cast<JDIMENSION>(picture.height);
  out.input_components = static_cast<int>(picture.channels);
  constexpr J_COLOR_SPACE spaces[] = {JCS_UNKNOWN, JCS_GRAYSCALE, JCS_UNKNOWN, JCS_RGB, JCS_CMYK};
  out.in_color_space = spaces[picture.channels];
  jpeg_set_defaults(&out);
  jpeg_set_quality(&out, 95, TRUE);
  if (progressive) jpeg_simple_progression(&out);
  jpeg_start_compress(&out, TRUE);
  Bytes row(vmoe::to_size(picture.width * picture.channels));
  while (out.next_scanline < out.image_height) {
    const auto first =
        picture.pixels.begin() + static_cast<std::ptrdiff_t>(out.next_scanline * row.size());
    row.assign(first, first + static_cast<std::ptrdiff_t>(row.size()));
    JSAMPROW pointer = row.data();
    jpeg_write_scanlines(&out, &pointer, 1);
  }
  jpeg_finish_compress(&out);
  jpeg_destroy_compress(&out);
  Bytes bytes(memory, memory + size);
  free(memory);
  return bytes;
}

Bytes gzip(const Bytes& bytes) {
  z_stream z{};
  require(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK, "deflateInit2");
  Bytes out(deflateBound(&z, static_cast<uLong>(bytes.size())));
  z.next_in = const_cast<Bytef*>(bytes.data());
  z.avail_in = static_cast<uInt>(bytes.size());
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  const int status = deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  require(status == Z_STREAM_END, "deflate");
  return out;
}

void write_file(const std::filesystem::path& path, const Bytes& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  require(out.good(), "write_file");
}

void write_directory(const std::filesystem::path& root, const Files& files) {
  for (const auto& [name, bytes] : files) write_file(root / name, bytes);
}

void write_archive(const std::filesystem::path& path, const std::string& format,
                   const Files& files) {
  archive* out = archive_write_new();
  if (format == "zip") {
    archive_write_set_format_zip(out);
  } else {
    archive_write_set_format_pax_restricted(out);
  }
  if (format == "tar.gz") archive_write_add_filter_gzip(out);
  if (format == "tar.xz") archive_write_add_filter_xz(out);
  require(archive_write_open_filename(out, path.c_str()) == ARCHIVE_OK, "archive open");
  for (const auto& [name, bytes] : files) {
    const bool folder = name.ends_with('/');
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_size(entry, static_cast<la_int64_t>(bytes.size()));
    archive_entry_set_filetype(entry, folder ? AE_IFDIR : AE_IFREG);
    archive_entry_set_perm(entry, folder ? 0755 : 0644);
    require(archive_write_header(out, entry) == ARCHIVE_OK, "archive header");
    if (!bytes.empty())
      require(archive_write_data(out, bytes.data(), bytes.size()) >= 0, "archive data");
    archive_entry_free(entry);
  }
  require(archive_write_close(out) == ARCHIVE_OK, "archive close");
  archive_write_free(out);
}

Files small_image_folder(const std::string& top, bool colour) {
  const Index channels = colour ? 3 : 1;
  const auto image = [&](int value) {
    return jpeg(flat(4, 4, channels, static_cast<std::uint8_t>(value)));
  };
  return {
      {top + "test/dog/1.png", png(flat(4, 4, channels, 104))},
      {top + "train/dog/2.jpg", image(102)},
      {top + "train/dog/0.jpg", image(100)},
      {top + "train/cat/1.JPEG", image(11)},
      {top + "train/dog/1.jpg", image(101)},
      {top + "train/cat/0.jpg", image(10)},
      {top + "test/cat/0.jpg", image(13)},
      {top + "train/cat/2.png", png(flat(4, 4, channels, 12))},
      {top + "test/cat/1.jpg", image(14)},
      {top + "test/dog/0.jpg", image(103)},
  };
}

Bytes idx(const std::vector<std::uint32_t>& sizes, const Bytes& data) {
  Bytes bytes = {0, 0, 8, static_cast<std::uint8_t>(sizes.size())};
  for (const std::uint32_t size : sizes)
    for (const unsigned shift : {24U, 16U, 8U, 0U})
      bytes.push_back(static_cast<std::uint8_t>(size >> shift));
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

Bytes cifar(const std::vector<std::vector<std::uint8_t>>& labels, std::uint8_t first) {
  Bytes bytes;
  for (const std::vector<std::uint8_t>& label : labels) {
    bytes.insert(bytes.end(), label.begin(), label.end());
    bytes.insert(bytes.end(), 3072, first++);
  }
  return bytes;
}

std::string load_error(const std::filesystem::path& path) {
  try {
    vmoe::load_dataset(path);
  } catch (const moxie::io_error& error) {
    return std::string("io_error: ") + error.what();
  } catch (const moxie::config_error& error) {
    return std::string("config_error: ") + error.what();
  }
  return "";
}

std::string directory_error(const Files& files) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "data");  // also for no files
  write_directory(folder / "data", files);
  return load_error(folder / "data");
}

}  // namespace fixtures
