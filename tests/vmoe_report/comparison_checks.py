"""What a page that compares models must show and do: checks for browser_test.py."""

import itertools
import json

# Patches whose first expert has changed, by model, from the page's data: null without experts.
CHANGED = """((level, image, block) => {
  const data = JSON.parse(document.getElementById('data').textContent);
  return data.models.map((model) => {
    const layer = model.layers.find((l) => l.block === block);
    if (!layer) return null;
    return Math.round(layer.change.top1[image][level] * model.grid[0] * model.grid[1]);
  });
})(%d, %d, %s)"""
FACTS = """(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const blocks = data.models.flatMap((m) => m.layers.map((l) => l.block));
  return {
    levels: data.levels, images: data.images.length, models: data.models.length,
    layered: data.models.filter((m) => m.layers.length > 0).length,
    last: blocks.length > 0 ? Math.max(...blocks) : null,
    blocks: [...new Set(blocks)].sort((a, b) => a - b)
  };
})()"""
SHOWN = "document.documentElement.dataset.changed"
PICTURE = """Array.from(document.querySelectorAll('#stage .frame:not([hidden]) canvas'),
                        (c) => c.toDataURL())"""
# Black corners in the first map, if its patches are large enough to see them.
CORNERS = """(() => {
  const map = document.querySelector('#stage .frame:not([hidden]) canvas.map');
  const data = JSON.parse(document.getElementById('data').textContent);
  const model = data.models.find((m) => m.layers.length > 0), [rows, cols] = model.grid;
  const side = map.width * model.patch / data.width;
  if (side < 20) return null;
  const copy = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  copy.canvas.width = map.width;
  copy.canvas.height = map.height;
  copy.drawImage(map, 0, 0);
  let black = 0;
  for (let p = 0; p < rows * cols; ++p) {
    const x = (p % cols + 1) * side - 3, y = Math.floor(p / cols) * side + 2;
    const [r, g, b] = copy.getImageData(Math.round(x), Math.round(y), 1, 1).data;
    black += r + g + b < 30 ? 1 : 0;
  }
  return black;
})()"""
CHIPS = """Array.from(document.querySelectorAll('#legend .chips'), (legend) => Array.from(
  legend.querySelectorAll('.chip:not(.dropped)'),
  (c) => getComputedStyle(c).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)))"""

# Linear colours as people see them who lack one kind of cone.   Source: Machado, Oliveira,
# Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009.
VISION = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
                   (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
                     (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602),
                   (0.004733, 0.691367, 0.303900)),
}
LEAST_DIFFERENCE = 12  # of CIE 1976; 2.3 can just be seen


def lab(linear):
    """CIE L*a*b* of linear sRGB under D65."""
    x, y, z = (sum(w * c for w, c in zip(row, linear)) / white for row, white in (
        ((0.4124, 0.3576, 0.1805), 0.95047), ((0.2126, 0.7152, 0.0722), 1.0),
        ((0.0193, 0.1192, 0.9505), 1.08883)))
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def least_difference(colours, matrix):
    seen = []
    for colour in colours:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                  for c in (v / 255 for v in colour)]
        seen.append(lab([min(1, max(0, sum(w * c for w, c in zip(row, linear))))
                         for row in matrix]))
    return min(sum((a - b) ** 2 for a, b in zip(one, other)) ** 0.5
               for one, other in itertools.combinations(seen, 2))


def check_palette(browser, check):
    """Up to eight experts differ by colour alone; beyond that their numbers tell them apart."""
    for colours in browser.evaluate(CHIPS):
        for vision, matrix in VISION.items() if len(colours) <= 8 else ():
            least = least_difference(colours, matrix)
            check(least >= LEAST_DIFFERENCE, "colours of experts differ by", least, "with", vision)


def check_changed(browser, facts, level, image, block, check):
    expected = browser.evaluate(CHANGED % (level, image, json.dumps(block)))
    expected = ",".join("-" if n is None else str(n) for n in expected)
    shown = browser.evaluate(SHOWN)
    check(shown == expected, "changed patches at level", level, "are", shown, "not", expected)


def move(browser, level):
    """As a drag of the slider does."""
    browser.evaluate("""((level) => {
      const noise = document.getElementById('noise');
      noise.value = level;
      noise.dispatchEvent(new Event('input', {bubbles: true}));
    })(%d)""" % level)


def text_of(browser, selector):
    return browser.evaluate("document.querySelector(%s).textContent" % json.dumps(selector))


def check_slider(browser, facts, check):
    start = browser.evaluate(PICTURE)
    check_changed(browser, facts, 0, 0, facts["last"], check)
    browser.evaluate("document.getElementById('noise').focus()")
    browser.press("ArrowRight")
    check(browser.evaluate("document.documentElement.dataset.level") == "1",
          "the arrow key does not move the slider")
    check_changed(browser, facts, 1, 0, facts["last"], check)
    sigma = text_of(browser, "#sigma")
    move(browser, facts["levels"])
    check(text_of(browser, "#sigma") != sigma, "the slider says always", sigma)
    check_changed(browser, facts, facts["levels"], 0, facts["last"], check)
    end = browser.evaluate(PICTURE)
    check(start[0] != end[0], "the image does not get noise")
    shown = browser.evaluate(SHOWN).split(",")
    moved = [n for n in shown if n != "-"]
    for before, after, n in zip(start[1:], end[1:], moved):
        check(before != after, "a map does not change with the noise, changed:", n)
    for level in (facts["levels"] // 2, facts["levels"]) if moved else ():
        move(browser, level)
        changed = next(n for n in browser.evaluate(SHOWN).split(",") if n != "-")
        corners = browser.evaluate(CORNERS)
        check(corners in (None, int(changed)), "of", changed, "changed patches are marked", corners)
    browser.press("Home")
    check(browser.evaluate(PICTURE) == start, "without noise again, the picture is another one")


def check_controls(browser, facts, check):
    if facts["images"] > 1:
        before = browser.evaluate(PICTURE)
        browser.evaluate("document.querySelectorAll('input[name=Image]')[1].click()")
        check(browser.evaluate(PICTURE)[0] != before[0], "another image shows the same")
        move(browser, 2)
        check_changed(browser, facts, 2, 1, facts["last"], check)
        browser.evaluate("document.querySelectorAll('input[name=Image]')[0].click()")
    for i, block in enumerate(facts["blocks"]):
        browser.evaluate("document.querySelectorAll('input[name=Layer]')[%d].click()" % i)
        check_changed(browser, facts, 2, 0, block, check)
    reading = "#curves .keys"
    before = text_of(browser, reading)
    browser.hover("#curves .plot", 0.9, 0.5)
    check(text_of(browser, reading) == before, "pointing alone moves the noise")
    browser.click("#curves .plot", 0.9, 0.5)
    check(text_of(browser, reading) != before, "a press in a plot does not move the noise")
    check(int(browser.evaluate("document.documentElement.dataset.level")) > facts["levels"] * 0.7,
          "a press at the right end of a plot moves the noise to",
          browser.evaluate("document.documentElement.dataset.level"))
    if not facts["layered"]:
        return
    browser.hover("h1", 0.5, 0.5)
    browser.evaluate("document.querySelector('.frame:not([hidden]) canvas.map').focus()")
    browser.press("ArrowRight")
    said = browser.evaluate("Array.from(document.querySelectorAll('#stage .readout'), "
                            "(r) => r.textContent)")
    said = [text for text in said if text]
    check(said and all(text.startswith("Row 1, column ") and "without noise" in text
                       for text in said), "the arrow keys say of a patch:", said)
    patches = "Number(document.querySelector('canvas.map[data-patches]').dataset.patches)"
    before = browser.evaluate(patches)
    browser.evaluate("document.querySelectorAll('.chip')[1].click()")
    check(browser.evaluate(patches) < before, "an expert alone has all patches")
    browser.evaluate("document.querySelectorAll('.chip')[1].click()")
    browser.evaluate("document.querySelector('#load figure:not([hidden]) .plot').focus()")
    browser.press("Home")
    loads = browser.evaluate("Array.from(document.querySelectorAll('#load .readout'), "
                             "(r) => r.textContent)")
    check(any(text.startswith("Expert 0 ") for text in loads), "Home says of the bars:", loads)


def check_comparison(browser, check, overflow):
    """At 1200 pixels and light, then at 360 and dark."""
    facts = browser.evaluate(FACTS)
    for width, dark in ((1200, False), (360, True)):
        browser.show(width, dark)
        check(browser.evaluate("document.documentElement.dataset.ready") == "true",
              "the page's script did not come to its end")
        move(browser, 0)
        wide = browser.evaluate(overflow)
        check(wide is None, "wider than the page:", wide)
        cards = browser.evaluate("document.querySelectorAll('#stage .card').length")
        check(cards == facts["models"] + 1, "cards:", cards)
        curves = browser.evaluate("document.querySelectorAll('path.series[d^=\"M\"]').length")
        check(curves >= facts["models"] + facts["layered"], "curves:", curves)
        stuck = browser.evaluate("""(() => {
          document.getElementById('load').scrollIntoView({block: 'start'});
          return document.getElementById('dial').getBoundingClientRect().top;
        })()""")
        check(-1 <= stuck <= 1, "the slider scrolls away, to", stuck)
    browser.show(1200, False)
    check_palette(browser, check)
    check_slider(browser, facts, check)
    check_controls(browser, facts, check)
    return "%(models)d models, %(images)d images, %(levels)d levels" % facts
