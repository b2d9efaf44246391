#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <span>

#include "moxie/io/atomic_file.hpp"
#include "moxie/io/safetensors_header.hpp"

/// Files of named tensors in the safetensors format: eight bytes with the length of the header, a
/// JSON header, and the bytes of the tensors one after another. Any reader of the format reads
/// ours.
/// Source: github.com/huggingface/safetensors, README, "Format".
namespace moxie {

static_assert(std::endian::native == std::endian::little,
              "moxie/io: the safetensors format is little-endian, and nothing here swaps bytes");

/// The type that a file uses for T.
template <class T>
constexpr TensorType tensor_type() {
  if constexpr (std::same_as<T, double>) {
    return TensorType::f64;
  } else if constexpr (std::same_as<T, float>) {
    return TensorType::f32;
  } else if constexpr (std::same_as<T, std::int64_t>) {
    return TensorType::i64;
  } else if constexpr (std::same_as<T, std::int32_t>) {
    return TensorType::i32;
  } else {
    static_assert(std::same_as<T, std::uint8_t>,
                  "moxie: a tensor of a file holds double, float, std::int64_t, std::int32_t or "
                  "std::uint8_t");
    return TensorType::u8;
  }
}

/// A tensor to be written; `data` points to host memory.
struct TensorToWrite {
  std::string name;
  TensorType type = TensorType::f32;
  std::vector<Index> shape;
  const void* data = nullptr;

  template <class T>
  static TensorToWrite of(std::string name, std::vector<Index> shape, const T* data) {
    return {std::move(name), tensor_type<T>(), std::move(shape), data};
  }
};

/// Writes a file, or leaves the one that was there untouched (see AtomicFile).
/// Errors: config_error for a name that comes twice, is "__metadata__" or is not UTF-8, and for
/// negative shapes; io_error where the file cannot be written.
inline void write_safetensors(const std::filesystem::path& path,
                              std::span<const TensorToWrite> tensors,
                              const Metadata& metadata = {}) {
  constexpr const char* who = "moxie::write_safetensors";
  for (const auto& [key, value] : metadata)
    if (!detail::is_utf8(key) || !detail::is_utf8(value))
      throw_config(who, ": the metadata '", key, "' is not UTF-8");

  // The widest first, so that each tensor lies at a multiple of its element.
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
    return size_of(a->type) != size_of(b->type) ? size_of(a->type) > size_of(b->type) : a < b;
  });

  detail::SafetensorsHeader header{{}, metadata};
  std::vector<std::string_view> names;
  std::uint64_t end = 0;
  for (const TensorToWrite* t : order) {
    if (t->name == "__metadata__" || !detail::is_utf8(t->name))
      throw_config(who, ": a tensor cannot be called '", t->name, "'");
    std::uint64_t bytes = size_of(t->type);
    for (const Index d : t->shape) {
      if (d < 0) throw_config(who, ": tensor '", t->name, "' is ", shape_text(t->shape));
      bytes *= static_cast<std::uint64_t>(d);
    }
    header.tensors.push_back({t->name, t->type, t->shape, end, end + bytes});
    end += bytes;
    names.push_back(t->name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw_config(who, ": the name '", *twice, "' comes twice");

  const std::string text = detail::safetensors_header_text(header);
  const std::uint64_t length = text.size();
  AtomicFile file(path, who);
  file.write(&length, sizeof(length));
  file.write(text.data(), text.size());
  for (std::size_t i = 0; i < order.size(); ++i)
    file.write(order[i]->data,
               static_cast<std::size_t>(header.tensors[i].end - header.tensors[i].begin));
  file.commit();
}

/// The tensors of a file, in memory. Whatever the bytes of the file, they are read as the format
/// says, or there is an io_error that names the file, the tensor, and what was expected.
class Safetensors {
 public:
  /// Errors: io_error for a file that is missing, cut off or damaged, or holds a type that is not
  /// supported.
  static Safetensors read(const std::filesystem::path& path) {
    Safetensors result;
    std::ifstream file;
    const std::uint64_t bytes = result.read_header(path, file);
    result.data_.resize(static_cast<std::size_t>(bytes));
    read_bytes(path, file, result.data_.data(), bytes);
    return result;
  }
  /// The free text alone, without reading the tensors.
  /// Errors: as `read`.
  static Metadata read_metadata(const std::filesystem::path& path) {
    Safetensors result;
    std::ifstream file;
    result.read_header(path, file);
    return std::move(result.header_.metadata);
  }

  const std::string& file() const noexcept { return file_; }
  /// In the order of their bytes.
  const std::vector<StoredTensor>& tensors() const noexcept { return header_.tensors; }
  const Metadata& metadata() const noexcept { return header_.metadata; }
  /// Null if there is none of that name.
  /// Cost: O(tensors).
  const StoredTensor* find(std::string_view name) const {
    for (const StoredTensor& t : header_.tensors)
      if (t.name == name) return &t;
    return nullptr;
  }
  std::span<const std::byte> bytes(const StoredTensor& t) const {
    return std::span(data_).subspan(static_cast<std::size_t>(t.begin),
                                    static_cast<std::size_t>(t.end - t.begin));
  }
  /// The elements of a tensor.
  /// Errors: io_error for a tensor of another type.
  template <class T>
  std::vector<T> values(const StoredTensor& t) const {
    if (t.type != tensor_type<T>())
      throw_io("moxie::Safetensors: '", file_, "': tensor '", t.name, "' holds ", name_of(t.type),
               ", expected ", name_of(tensor_type<T>()));
    std::vector<T> out(static_cast<std::size_t>(t.size()));
    if (!out.empty()) std::memcpy(out.data(), bytes(t).data(), out.size() * sizeof(T));
    return out;
  }

 private:
  Safetensors() = default;

  /// Leaves the file at the first byte of data, and returns how many there are.
  std::uint64_t read_header(const std::filesystem::path& path, std::ifstream& file) {
    file_ = path.string();
    const auto fail = [&](const auto&... what) {
      throw_io("moxie::Safetensors: '", file_, "'", what...);
    };
    std::error_code error;
    const auto kind = std::filesystem::status(path, error);
    if (!std::filesystem::exists(kind))
      fail(": ", error ? error.message() : "there is no such file");
    if (!std::filesystem::is_regular_file(kind)) fail(" is not a regular file");
    const std::uint64_t size = std::filesystem::file_size(path, error);
    if (error) fail(": ", error.message());
    errno = 0;
    file.open(path, std::ios::binary);
    if (!file)
      fail(" cannot be opened: ", std::error_code(errno, std::generic_category()).message());

    std::uint64_t length = 0;
    if (size < sizeof(length))
      fail(" has ", size, " bytes, expected at least the 8 of the header's length: is it cut off?");
    read_bytes(path, file, &length, sizeof(length));
    const std::uint64_t rest = size - sizeof(length);
    // The format's own limit: no honest header is larger, and a wrong length is not read into
    // memory.
    constexpr std::uint64_t limit = 100'000'000;
    if (length > rest || length > limit)
      fail(": the header's length is ", length, ", expected at most ", (std::min)(rest, limit),
           ": is it cut off, or no safetensors file?");
    std::string text(static_cast<std::size_t>(length), '\0');
    read_bytes(path, file, text.data(), length);
    header_ = detail::SafetensorsParser(file_, text, rest - length).parse();
    return rest - length;
  }
  static void read_bytes(const std::filesystem::path& path, std::ifstream& file, void* to,
                         std::uint64_t bytes) {
    if (bytes == 0) return;
    file.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
    if (file.gcount() != static_cast<std::streamsize>(bytes) || !file)
      throw_io("moxie::Safetensors: '", path.string(), "': got ", file.gcount(),
               " bytes, expected ", bytes, ": did it change while it was read?");
  }

  std::string file_;
  detail::SafetensorsHeader header_;
  std::vector<std::byte> data_;
};

}  // namespace moxie
