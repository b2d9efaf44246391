#include "attack_report.hpp"

#include <nlohmann/json.hpp>

#include "json_text.hpp"
#include "page.hpp"

namespace vmoe {
namespace {

constexpr std::string_view attack_html =
#include "attack_html.inc"
    ;
constexpr std::string_view attack_css =
#include "attack_css.inc"
    ;
constexpr std::string_view attack_js =
#include "attack_js.inc"
    ;

}  // namespace

std::string attack_report(const nlohmann::json& data) {
  const std::string text = json_text(data, {.ascii = true});
  return make_page({.title = "V-MoE under attack",
                    .main = attack_html,
                    .css = attack_css,
                    .scripts = {attack_js},
                    .data = text});
}

}  // namespace vmoe
