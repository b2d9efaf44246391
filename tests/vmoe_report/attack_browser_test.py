#!/usr/bin/env python3
"""Opens pages of attacks in headless Chromium and checks what they draw and how they are used.

  attack_browser_test.py --program test_vmoe_report      pages of every kind, made by the test program
  attack_browser_test.py attack.html [--screenshot page.png]

Fails as browser_test.py does, whose browser it uses; exits 77 (skipped) where there is no Chromium.
"""

import argparse
import pathlib
import sys

import browser_test
from browser_test import Failure, check, text_of

TEST_CASE = "pages of attacks for the browser"  # of attack_page_test.cpp

EXPECTED = """(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const maps = data.blocks.length > 0 ? 2 * data.images.length : 0;
  return {points: data.images.length, maps, patches: maps * data.grid[0] * data.grid[1],
          layers: data.blocks.length, columns: data.grid[1], fell: data.figures.routing_change.images,
          classes: data.figures.margins.filter((m) => m.images > 0).length};
})()"""


def check_page(browser, page):
    browser.show(1200, False)
    browser.open(page)
    drawn = browser.evaluate("Object.assign({}, document.documentElement.dataset)")
    expected = browser.evaluate(EXPECTED)
    complaints = browser.complaints(page)
    check(not complaints, *complaints)
    check(drawn.get("ready") == "true", "the page's script did not come to its end")
    for key in ("points", "maps", "patches"):
        check(int(drawn[key]) == expected[key], key, "drawn:", drawn[key], "of", expected[key])
    tiles = browser.evaluate("document.querySelectorAll('dl#headline > div').length")
    check(tiles == 5, "headline numbers:", tiles)
    rows = browser.evaluate("document.querySelectorAll('#margins tbody tr').length")
    check(rows == expected["classes"], "classes in the table of margins:", rows)
    rows = browser.evaluate("document.querySelectorAll('#routes tbody tr').length")
    check(rows == (expected["layers"] if expected["fell"] else 0), "layers in the table of routes:", rows)
    for selector in ("canvas.map", "#points figure:first-child canvas"):
        colours = browser.evaluate(browser_test.COLOURS % selector)
        check(all(n > 2 for n in colours), selector, "have colours:", colours)
    if expected["maps"]:
        browser.hover("canvas.map", 0.9, 0.1)
        said = text_of(browser, ".card .readout")
        whole = expected["columns"] == 1  # images have one route
        place = "" if whole else "Row 1, column "
        check(said.startswith(place) and "→" in said, "pointing at a patch says:", said)
        browser.hover("h1", 0.5, 0.5)
        check("first expert" in text_of(browser, ".card .readout"), "the pointer went away")
        browser.evaluate("document.querySelector('canvas.map').focus()")
        browser.press("ArrowRight")
        said = text_of(browser, ".card .readout")
        check(said.startswith("" if whole else "Row 1, column 2: ") and "→" in said, "the arrow keys say of a patch:", said)
        if expected["layers"] > 1:
            browser.evaluate("document.querySelectorAll('input[name=Layer]')[1].click()")
    else:
        check(expected["points"] > 0 or "broke no point" in text_of(browser, "#points"),
              "nothing is said where no point fell")
    for width, dark in ((360, False), (1200, True)):
        browser.show(width, dark)
        overflow = browser.evaluate(browser_test.OVERFLOW)
        check(overflow is None, "wider than a page of", width, ":", overflow)
    complaints = browser.complaints(page)
    check(not complaints, *complaints)
    return "%d points, %d maps" % (expected["points"], expected["maps"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("pages", nargs="*", type=pathlib.Path, metavar="attack.html")
    parser.add_argument("--program", help="test program that writes pages of every kind")
    parser.add_argument("--screenshot", help="PNG to write, of the last page")
    options = parser.parse_args()
    if not options.pages and not options.program:
        parser.error("name a page or a --program")
    def every_page(scratch):
        pages = browser_test.made_by(options.program, TEST_CASE, scratch, ("report",)) if options.program else []
        return options.pages + pages
    return browser_test.check_pages(every_page, check_page, options.screenshot)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print("FAILED:", failure)
        sys.exit(1)
