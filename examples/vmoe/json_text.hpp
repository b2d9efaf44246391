#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace vmoe {

/// Results as text: JSON is UTF-8, paths need not be. What is none becomes U+FFFD, so that no result
/// is lost for a name.
struct JsonText {
  int indent = -1;     ///< spaces of a level; -1: all in one line
  bool ascii = false;  ///< other characters are escaped, for pages
};
inline std::string json_text(const nlohmann::json& value, const JsonText& form = {}) {
  return value.dump(form.indent, ' ', form.ascii, nlohmann::json::error_handler_t::replace);
}

}  // namespace vmoe
