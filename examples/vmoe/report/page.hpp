#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vmoe {

/// What one kind of page has of its own.
struct PageParts {
  std::string_view title;                 ///< plain text
  std::string_view main;                  ///< what stands in <main>
  std::string_view css{};                 ///< after the style that pages share
  std::vector<std::string_view> scripts;  ///< after what pages share, in one function with it
  std::string_view data;                  ///< for the scripts: JSON in ASCII
};

/// A self-contained page that opens offline: style, scripts and data are in it, and it refers to
/// nothing else. No text of title or data can become markup.
std::string make_page(const PageParts& parts);

}  // namespace vmoe
