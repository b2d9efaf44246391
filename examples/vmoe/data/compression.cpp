#include "compression.hpp"

#include <zlib.h>

#include <algorithm>
#include <limits>

#include "archive_reader.hpp"
#include "moxie/core/error.hpp"

namespace vmoe {
namespace {

constexpr std::size_t chunk = std::size_t{1} << 18U;

bool starts_with(ByteView bytes, std::initializer_list<int> magic) {
  return bytes.size() >= magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin());
}

void check_limit(std::size_t expanded, std::size_t compressed, const std::string& name) {
  if (expanded > expansion_limit(compressed)) {
    moxie::throw_io("vmoe::load_dataset: ", name, ": ", compressed, " bytes expand to more than ",
                    expansion_limit(compressed), ", expected image data");
  }
}

/// One zlib stream, ended when it goes out of scope.
class Inflater {
 public:
  explicit Inflater(const std::string& name) {
    constexpr int gzip_window = 15 + 16;  // 32 KiB window, gzip header and trailer
    if (inflateInit2(&stream, gzip_window) != Z_OK)
      moxie::throw_io("vmoe::load_dataset: ", name, ": zlib could not start: out of memory");
  }
  ~Inflater() { inflateEnd(&stream); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  z_stream stream{};
};

// By zlib and not by libarchive, whose gzip filter checks neither length nor checksum.
Bytes gunzip(ByteView bytes, const std::string& name) {
  Inflater inflater(name);
  z_stream& z = inflater.stream;
  Bytes out;
  std::size_t used = 0;
  std::size_t filled = 0;
  for (;;) {
    if (z.avail_in == 0) {
      const std::size_t next =
          std::min<std::size_t>(bytes.size() - used, std::numeric_limits<uInt>::max());
      z.next_in = const_cast<Bytef*>(bytes.data() + used);  // zlib reads only
      z.avail_in = static_cast<uInt>(next);
      used += next;
    }
    if (out.size() - filled < chunk) out.resize(std::max(2 * out.size(), chunk));
    const auto room = static_cast<uInt>(
        std::min<std::size_t>(out.size() - filled, std::numeric_limits<uInt>::max()));
    z.next_out = out.data() + filled;
    z.avail_out = room;
    const int status = inflate(&z, Z_NO_FLUSH);
    filled += room - z.avail_out;
    check_limit(filled, bytes.size(), name);

    if (status == Z_STREAM_END) {
      const ByteView rest = bytes.subspan(used - z.avail_in);
      if (std::all_of(rest.begin(), rest.end(), [](std::uint8_t b) { return b == 0; })) break;
      if (!starts_with(rest, {0x1f, 0x8b})) {
        moxie::throw_io("vmoe::load_dataset: ", name, ": ", rest.size(),
                        " bytes follow the gzip data, expected its end");
      }
      inflateReset(&z);
    } else if (status == Z_BUF_ERROR ||
               (status == Z_OK && z.avail_in == 0 && z.avail_out != 0 && used == bytes.size())) {
      moxie::throw_io("vmoe::load_dataset: ", name, ": truncated gzip data, ", bytes.size(),
                      " bytes came, expected more");
    } else if (status != Z_OK) {
      moxie::throw_io("vmoe::load_dataset: ", name, ": corrupt gzip data (",
                      z.msg != nullptr ? z.msg : "damaged", "), expected a valid gzip file");
    }
  }
  out.resize(filled);
  return out;
}

Bytes unxz(ByteView bytes, const std::string& name) {
  const ArchiveReader reader = make_archive_reader();
  archive_read_support_filter_xz(reader.get());
  archive_read_support_format_raw(reader.get());
  const auto fail = [&]() {
    moxie::throw_io("vmoe::load_dataset: ", name, ": truncated or corrupt xz data (",
                    archive_message(reader.get()), "), expected a valid xz file");
  };
  archive_entry* entry = nullptr;
  if (archive_read_open_memory(reader.get(), bytes.data(), bytes.size()) != ARCHIVE_OK) fail();
  if (archive_read_next_header(reader.get(), &entry) != ARCHIVE_OK) fail();
  // A damaged header is not recognised as xz at all, and would come back as it is.
  if (archive_filter_code(reader.get(), 0) != ARCHIVE_FILTER_XZ) {
    moxie::throw_io("vmoe::load_dataset: ", name,
                    ": truncated or corrupt xz data (damaged header), expected a valid xz file");
  }
  Bytes out;
  std::size_t filled = 0;
  for (;;) {
    if (out.size() - filled < chunk) out.resize(std::max(2 * out.size(), chunk));
    const la_ssize_t got =
        archive_read_data(reader.get(), out.data() + filled, out.size() - filled);
    if (got < 0) fail();
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
    check_limit(filled, bytes.size(), name);
  }
  out.resize(filled);
  return out;
}

}  // namespace

Compression compression_of(ByteView bytes) {
  if (starts_with(bytes, {0x1f, 0x8b})) return Compression::gzip;
  if (starts_with(bytes, {0xfd, '7', 'z', 'X', 'Z', 0})) return Compression::xz;
  return Compression::none;
}

std::size_t expansion_limit(std::size_t compressed) {
  constexpr std::size_t always = std::size_t{64} << 20U;
  constexpr std::size_t factor = 200;
  return always + factor * compressed;
}

Bytes decompress(ByteView bytes, const std::string& name) {
  switch (compression_of(bytes)) {
    case Compression::gzip:
      return gunzip(bytes, name);
    case Compression::xz:
      return unxz(bytes, name);
    case Compression::none:
      break;
  }
  return {bytes.begin(), bytes.end()};
}

}  // namespace vmoe
