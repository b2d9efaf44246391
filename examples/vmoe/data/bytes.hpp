#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace vmoe {

using Bytes = std::vector<std::uint8_t>;
using ByteView = std::span<const std::uint8_t>;

/// The contents of a regular file.
/// @throws moxie::io_error if it is missing, not a regular file, or cannot be read.
Bytes read_file(const std::filesystem::path& path);

/// The first bytes in hexadecimal, for messages about files that are not what they should be.
std::string first_bytes(ByteView bytes);

}  // namespace vmoe
