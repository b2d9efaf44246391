#pragma once

#include <cstddef>
#include <string>

#include "support/errors.hpp"
#include "vmoe/report/report.hpp"
#include "vmoe_report/fake_run.hpp"

/// A run directory in a place of its own, and the report on it.
struct RunFixture : fake::TemporaryDir {
  fake::Run run{.train_lines = 20, .eval_lines = 4, .images = 2};
  RunFixture() { fake::write_run(path, run); }

  std::string page() const {
    vmoe::write_report(path);
    return fake::read(path / "report.html");
  }
  // What the page's script gets.
  fake::Json data() const {
    const std::string html = page(), opening = "id=\"data\">";
    const std::size_t begin = html.find(opening) + opening.size();
    return fake::Json::parse(html.substr(begin, html.find("</script>", begin) - begin));
  }
  std::string error() const {
    return moxie::test::message_of<moxie::io_error>([&] { vmoe::write_report(path); });
  }
  std::string expected_error(const std::string& what) const {
    return "vmoe::write_report: " + (path / what).string();
  }
};
