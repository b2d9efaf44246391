#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace vmoe {

/// Bytes as text for a page.   Source: RFC 4648, section 4.
std::string base64(const std::uint8_t* data, std::size_t size);

}  // namespace vmoe
