#pragma once

#include <cstddef>
#include <string>

#include "bytes.hpp"

namespace vmoe {

enum class Compression { none, gzip, xz };

/// Told by the first bytes, whatever the name of the file is.
Compression compression_of(ByteView bytes);

/// The most that `compressed` bytes of image data may expand to. Real sets stay below a factor of
/// 10; without a limit a damaged or hostile file could fill the memory.
std::size_t expansion_limit(std::size_t compressed);

/// Undoes gzip or xz, checking lengths and checksums to the last byte.
/// @param name  for messages
/// @throws moxie::io_error if the data is truncated, corrupt, or expands beyond the limit.
Bytes decompress(ByteView bytes, const std::string& name);

}  // namespace vmoe
