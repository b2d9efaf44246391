#include "comparison.hpp"

#include <nlohmann/json.hpp>

#include "json_text.hpp"
#include "page.hpp"

namespace vmoe {
namespace {

constexpr std::string_view comparison_html =
#include "comparison_html.inc"
    ;
constexpr std::string_view comparison_css =
#include "comparison_css.inc"
    ;
constexpr std::string_view comparison_data_js =
#include "comparison_data_js.inc"
    ;
constexpr std::string_view comparison_js =
#include "comparison_js.inc"
    ;

}  // namespace

std::string comparison_page(const nlohmann::json& figures) {
  const std::string title =
      "V-MoE: " + std::to_string(figures.at("models").size()) + " models under noise";
  return make_page({.title = title,
                    .main = comparison_html,
                    .css = comparison_css,
                    .scripts = {comparison_data_js, comparison_js},
                    .data = json_text(figures, {.ascii = true})});
}

}  // namespace vmoe
