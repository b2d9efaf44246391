#pragma once

#include <span>
#include <string>

#include "bytes.hpp"
#include "image_set.hpp"

namespace vmoe {

/// Size and channels (1 grey, 3 colour) of a PNG or JPEG file from its header.
/// @param name  for messages
/// @throws moxie::io_error if it is neither, damaged, or larger than `largest_side`.
ImageShape image_shape(ByteView file, const std::string& name);

/// Decodes a PNG or JPEG file to rows of `shape.channels` interleaved 8-bit values.
/// Grey may be asked for as 3 equal channels, colour not as 1; transparency is laid over black.
/// @throws moxie::io_error if the data is truncated or damaged in any way that the decoder notices:
/// its warnings count, as it makes up the missing pixels then.
void decode_image(ByteView file, const std::string& name, const ImageShape& shape,
                  std::span<std::uint8_t> pixels);

constexpr Index largest_side = 4096;  // a damaged header must not ask for gigabytes

}  // namespace vmoe
