#include "bytes.hpp"

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <ios>
#include <system_error>

#include "moxie/core/error.hpp"

namespace vmoe {

Bytes read_file(const std::filesystem::path& path) {
  std::error_code failure;
  // Only regular files: reading a pipe or a terminal could wait for ever.
  if (!std::filesystem::is_regular_file(path, failure)) {
    moxie::throw_io("vmoe::load_dataset: ", path.string(), ": ",
                    failure ? failure.message() : "not a regular file", ", expected a file");
  }
  const std::uintmax_t size = std::filesystem::file_size(path, failure);
  std::ifstream in(path, std::ios::binary);
  if (failure || !in) {
    moxie::throw_io("vmoe::load_dataset: ", path.string(),
                    ": cannot be opened, expected a readable file");
  }
  Bytes bytes(static_cast<std::size_t>(size));
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (static_cast<std::uintmax_t>(in.gcount()) != size) {
    moxie::throw_io("vmoe::load_dataset: ", path.string(), ": only ", in.gcount(),
                    " bytes could be read, expected ", size);
  }
  return bytes;
}

std::string first_bytes(ByteView bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : bytes.first(std::min<std::size_t>(bytes.size(), 4))) {
    if (!text.empty()) text += ' ';
    text += digits[byte >> 4U];
    text += digits[byte & 15U];
  }
  return text;
}

}  // namespace vmoe
