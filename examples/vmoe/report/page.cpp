#include "page.hpp"

#include <utility>

namespace vmoe {
namespace {

constexpr std::string_view page_html =
#include "page_html.inc"
    ;
constexpr std::string_view page_css =
#include "page_css.inc"
    ;
constexpr std::string_view common_js =
#include "common_js.inc"
    ;

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// JSON for a <script> element. There `<` is in strings only, and without it neither `</script` nor
// `<!--` can appear; the rest is ASCII, so the page does not depend on its encoding.
std::string escape_script(std::string_view data) {
  std::string out;
  for (const char c : data) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

// Puts each value in place of its mark. Marks are looked for in the page only, in order, never in
// what was put in.
std::string fill(std::string_view page,
                 const std::vector<std::pair<std::string_view, std::string>>& values) {
  std::string out;
  std::size_t done = 0;
  for (const auto& [mark, value] : values) {
    const std::size_t at = page.find(mark, done);
    out.append(page.substr(done, at - done)).append(value);
    done = at + mark.size();
  }
  return out.append(page.substr(done));
}

}  // namespace

std::string make_page(const PageParts& parts) {
  std::string script("'use strict';\n(() => {\n");
  script.append(common_js);
  for (const std::string_view part : parts.scripts) script.append(part);
  script.append("})();\n");
  return fill(page_html, {{"{{title}}", escape_html(parts.title)},
                          {"{{css}}", std::string(page_css).append(parts.css)},
                          {"{{main}}", std::string(parts.main)},
                          {"{{data}}", escape_script(parts.data)},
                          {"{{js}}", script}});
}

}  // namespace vmoe
