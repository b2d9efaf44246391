#!/usr/bin/env python3
"""Opens report.html and comparison.html files in headless Chromium and checks what they draw and
how they are used.

  browser_test.py --program test_vmoe_report      pages of every kind, made by the test program
  browser_test.py RUN/report.html [--screenshot page.png] [--width 360] [--dark]

Fails on an exception, a console error or warning, a request for anything but the page, or a check
that does not hold. Exits 77 (skipped) where there is no Chromium; MOXIE_CHROMIUM names one.
Needs Python 3.10, on a system with fork, and nothing else: it speaks the DevTools protocol by pipe.
"""

import argparse
import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from comparison_checks import check_comparison

SKIPPED = 77
TEST_CASES = "*of every kind*for the browser"  # of browser_runs_test.cpp and comparison_test.cpp
TIMEOUT = 60  # seconds for one answer of a browser on a busy machine


class Failure(Exception):
    pass


def find_chromium():
    names = [os.environ.get("MOXIE_CHROMIUM"), "chromium", "chromium-browser", "google-chrome",
             "chrome"]
    return next((path for path in (shutil.which(n) for n in names if n) if path), None)


class Browser:
    """A headless Chromium with one tab, spoken to by messages of JSON that end in a NUL."""

    def __init__(self, program, profile):
        # The browser reads from its descriptor 3 and writes to 4. Ours go out of the way first.
        to_browser, from_us = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in os.pipe())
        from_browser, to_us = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in os.pipe())

        def connect():
            os.dup2(to_browser, 3)
            os.dup2(to_us, 4)

        self.log = open(os.path.join(profile, "browser.log"), "wb")
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--hide-scrollbars", "--no-first-run", "--user-data-dir=" + os.path.join(profile, "p"),
             "--remote-debugging-pipe", "about:blank"],
            preexec_fn=connect, pass_fds=(3, 4), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        os.close(to_browser)
        os.close(to_us)
        self.output, self.input = from_us, from_browser
        self.buffer = b""
        self.number = 0
        self.session = None
        self.events = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(domain + ".enable")

    def receive(self, deadline):
        while b"\0" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.input], [], [], left)[0]:
                raise Failure("the browser did not answer in %d s" % TIMEOUT)
            chunk = os.read(self.input, 1 << 20)
            if not chunk:
                raise Failure("the browser ended")
            self.buffer += chunk
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def send(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.output, data):]
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = self.receive(deadline)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise Failure("%s: %s" % (method, answer["error"].get("message")))
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method):
        deadline = time.monotonic() + TIMEOUT
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.receive(deadline))

    def evaluate(self, expression):
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in answer:
            raise Failure("%s: %s" % (expression, describe(answer["exceptionDetails"])))
        return answer["result"].get("value")

    def next_frame(self):
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")

    def show(self, width, dark):
        # A tall window, so that the pointer reaches everything without scrolling.
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.next_frame()
        self.next_frame()

    def open(self, path):
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("Page.loadEventFired")
        self.next_frame()

    def complaints(self, page):
        """Everything the page did that a self-contained page without mistakes does not do."""
        found = []
        for event in self.events:
            params, method = event.get("params", {}), event.get("method")
            if method == "Runtime.exceptionThrown":
                found.append("exception: " + describe(params["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and params["type"] in (
                    "error", "warning", "assert"):
                found.append("console: " + json.dumps(params["args"])[:300])
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append("log: " + params["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if url != page.resolve().as_uri() and not url.startswith("data:"):
                    found.append("request: " + url)
        return list(dict.fromkeys(found))

    def hover(self, selector, x, y):
        """Points at a place of an element, given as shares of its width and height."""
        box = self.evaluate("""(() => {
          const node = document.querySelector(%s);
          node.scrollIntoView({block: 'center'});
          const b = node.getBoundingClientRect();
          return [b.left, b.top, b.width, b.height];
        })()""" % json.dumps(selector))
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + x * box[2],
                  y=box[1] + y * box[3])
        self.next_frame()

    def click(self, selector, x, y):
        """Presses at a place of an element, given as shares of its width and height."""
        self.hover(selector, x, y)
        box = self.evaluate("""(() => {
          const b = document.querySelector(%s).getBoundingClientRect();
          return [b.left, b.top, b.width, b.height];
        })()""" % json.dumps(selector))
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1,
                      buttons=1 if kind == "mousePressed" else 0,
                      x=box[0] + x * box[2], y=box[1] + y * box[3])
        self.next_frame()

    def press(self, key):
        codes = {"Home": 36, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=codes[key])

    def screenshot(self, file):
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        image = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True,
                          clip=clip)
        pathlib.Path(file).write_bytes(base64.b64decode(image["data"]))

    def close(self):
        try:
            self.session = None
            self.send("Browser.close")
            self.process.wait(timeout=10)
        except (Failure, OSError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()


def describe(details):
    return details.get("exception", {}).get("description") or details.get("text", "unknown")


def check(condition, *what):
    if not condition:
        raise Failure(" ".join(str(part) for part in what))


def text_of(browser, selector):
    return browser.evaluate("document.querySelector(%s).textContent" % json.dumps(selector))


# What a page should show follows from the data in it, so any report can be checked.
EXPECTED = """(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const any = (values) => values.some((v) => v !== null);
  const charts = ['loss', 'accuracy'].flatMap(
      (key) => [data.train[key], data.evals.map((e) => e[key])]);
  const last = data.evals.length > 0 ? data.evals[data.evals.length - 1].layers : [];
  const routing = data.routing && data.routing.layers.length > 0 ? data.routing : {images: []};
  return {
    curves: charts.filter(any).length,
    bars: last.reduce((n, layer) => n + layer.load.length, 0),
    strips: last.length,
    maps: routing.images.length,
    patches: routing.images.reduce((n, image) => n + image.routes[0].length, 0),
    images: routing.images.length,
    onePatch: routing.images.length > 0 && routing.images[0].routes[0].length === 1,
    several: data.train.loss.filter((v) => v !== null).length > 1,
  };
})()"""

# What the curves of training come to at their ends, with what is read there: [training, shown].
ENDS = """(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const {steps} = data.train;
  const shown = Array.from(document.querySelectorAll('#curves figure'),
      (figure) => figure.querySelector('.keys b')?.textContent);
  return ['loss', 'accuracy'].map((key, chart) => {
    const ys = data.train[key], last = ys.at(-1) ?? null;
    if (ys.length === 0 || last === null) return null;
    const radius = ys.length > 60 ? Math.round(ys.length / 40) : 0;
    let sum = 0, weight = 0;
    for (let i = ys.length - 1 - radius; i < ys.length; ++i) {
      sum += ys[i] === null ? 0 : steps[i] * ys[i];
      weight += ys[i] === null ? 0 : steps[i];
    }
    return [sum / weight, parseFloat(shown[chart]) / (key === 'accuracy' ? 100 : 1)];
  });
})()"""

# Colours in a canvas: one would mean that nothing was drawn. A copy is read, for the browser warns
# of a canvas that is read often.
COLOURS = """Array.from(document.querySelectorAll('%s'), (canvas) => {
  const copy = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  copy.canvas.width = canvas.width;
  copy.canvas.height = canvas.height;
  copy.drawImage(canvas, 0, 0);
  const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let i = 0; i < pixels.length; i += 4) seen.add(pixels.slice(i, i + 4).join());
  return seen.size;
})"""

# What is wider than the page, if something is.
OVERFLOW = """(() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return null;
  const wide = Array.from(document.querySelectorAll('main *')).find(
      (node) => node.getBoundingClientRect().right > width + 1);
  return (wide ? wide.outerHTML : '?').slice(0, 200);
})()"""


def check_drawing(browser):
    drawn = browser.evaluate("Object.assign({}, document.documentElement.dataset)")
    expected = browser.evaluate(EXPECTED)
    check(drawn.get("ready") == "true", "the page's script did not come to its end")
    for key in ("bars", "strips", "maps", "patches"):
        check(int(drawn[key]) == expected[key], key, "drawn:", drawn[key], "of", expected[key])
    check(int(drawn["curves"]) >= expected["curves"],
          "curves drawn:", drawn["curves"], "of at least", expected["curves"])
    for selector in ("canvas.map", ".frame canvas:not(.map)"):
        colours = browser.evaluate(COLOURS % selector)
        check(len(colours) == expected["images"], selector, "are", len(colours))
        check(all(n > 4 for n in colours), selector, "have colours:", colours)
    overflow = browser.evaluate(OVERFLOW)
    check(overflow is None, "wider than the page:", overflow)
    tiles = browser.evaluate("document.querySelectorAll('dl#headline > div').length")
    check(tiles == 5, "headline numbers:", tiles)
    heights = browser.evaluate(
        "Array.from(document.querySelectorAll('rect.bar'), (b) => +b.getAttribute('height'))")
    check(not heights or max(heights) > 20, "heights of bars:", heights)
    return expected


def check_ends(browser):
    for end in browser.evaluate(ENDS):
        check(end is None or abs(end[0] - end[1]) < 0.006 * abs(end[0]) + 0.0006,
              "a curve of training ends at %s, expected the mean %s" % tuple(reversed(end or (0, 0))))


def check_use(browser, expected):
    if expected["several"]:
        reading = "#curves figure .keys"
        before = text_of(browser, reading)
        browser.hover("#curves .plot", 0.2, 0.5)
        check(text_of(browser, reading) != before, "pointing at a curve does not read it")
        browser.evaluate("document.querySelector('#curves .plot').focus()")
        browser.press("Home")
        first = text_of(browser, "#curves .when")
        browser.press("ArrowRight")
        check(text_of(browser, "#curves .when") != first, "arrow keys do not move along a curve")
    if expected["bars"]:
        browser.hover("#load .plot svg", 0.6, 0.5)
        said = text_of(browser, "#load .readout")
        check(said.startswith("Expert "), "pointing at a bar says:", said)
        browser.evaluate("document.querySelector('#load .plot').focus()")
        browser.press("Home")
        said = text_of(browser, "#load .readout")
        check(said.startswith("Expert 0 "), "Home says of the bars:", said)
        if browser.evaluate("Number(document.querySelector('.strip canvas').dataset.rows)") > 1:
            browser.press("ArrowDown")
            older = text_of(browser, "#load .readout")
            check(older.startswith("Expert 0 ") and older != said, "an older bar says:", older)
    if expected["images"]:
        names = ("expert", "dropped")
        browser.hover("canvas.map", 0.9, 0.9)
        said = text_of(browser, ".card .readout")
        check(said.startswith("Row ") and any(name in said for name in names),
              "pointing at a patch says:", said)
        browser.hover("h1", 0.5, 0.5)
        browser.evaluate("document.querySelector('canvas.map').focus()")
        browser.press("ArrowRight")
        said = text_of(browser, ".card .readout")
        place = "Row 1, column %d: " % (1 if expected["onePatch"] else 2)
        check(said.startswith(place), "the arrow keys say of a patch:", said)

        browser.evaluate("document.querySelector('.chip').click()")
        alone = int(browser.evaluate("document.documentElement.dataset.patches"))
        check(alone < expected["patches"], "an expert alone has", alone, "patches")
        browser.evaluate("document.querySelector('.chip').click()")
        if browser.evaluate("document.querySelectorAll('input[name=Layer]').length") > 1:
            picture = "document.querySelector('canvas.map').toDataURL()"
            first = browser.evaluate(picture)
            browser.evaluate("document.querySelectorAll('input[name=Layer]')[1].click()")
            check(browser.evaluate(picture) != first, "another layer shows the same routes")
            browser.evaluate("document.querySelectorAll('input[name=Layer]')[0].click()")


def check_page(browser, page):
    browser.show(1200, False)
    browser.open(page)
    try:
        if browser.evaluate("document.getElementById('dial') !== null"):
            drawn = check_comparison(browser, check, OVERFLOW)
            complaints = browser.complaints(page)
            check(not complaints, "; ".join(complaints))
            return drawn
        expected = check_drawing(browser)
        check_ends(browser)
        check_use(browser, expected)
        colour = "getComputedStyle(document.body).backgroundColor"
        light = browser.evaluate(colour)
        browser.show(360, True)
        check(browser.evaluate(colour) != light, "the dark scheme is as light")
        check_drawing(browser)
    except Failure as failure:
        # an exception in the page explains the rest
        raise Failure("; ".join([str(failure)] + browser.complaints(page)))
    complaints = browser.complaints(page)
    check(not complaints, "; ".join(complaints))
    return "%(curves)d curves, %(bars)d bars, %(maps)d maps" % expected


def made_by(program, test_cases, scratch, kinds):
    """Pages of every kind that a test program writes into the folder `scratch`."""
    made = os.path.join(scratch, "runs")
    subprocess.run([program, "--test-case=" + test_cases], env=dict(os.environ, MOXIE_REPORT_DIR=made), check=True,
                   stdout=subprocess.DEVNULL)
    pages = []
    for kind in kinds:
        own = sorted(pathlib.Path(made).glob("*/%s.html" % kind))
        check(len(own) > 1, "the test program wrote no", kind)
        pages += own
    return pages


def check_pages(every_page, check_page, screenshot=None, width=1200, dark=False):
    """The exit code of check_page(browser, page), which says what it saw, of the pages of every_page(scratch folder); and
    a picture of the last one."""
    chromium = find_chromium()
    if chromium is None:
        print("moxie: skipped: no Chromium found")
        return SKIPPED
    with tempfile.TemporaryDirectory(prefix="vmoe_browser_", ignore_cleanup_errors=True) as scratch:
        pages = every_page(scratch)
        browser = Browser(chromium, scratch)
        failed = 0
        try:
            for page in pages:
                name = page.resolve().parent.name
                try:
                    print("ok      %-16s %s" % (name, check_page(browser, page)))
                except Failure as failure:
                    failed += 1
                    print("FAILED  %-16s %s" % (name, failure))
            if screenshot:
                browser.show(width, dark)
                browser.open(pages[-1])
                browser.screenshot(screenshot)
        finally:
            browser.close()
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("reports", nargs="*", type=pathlib.Path, metavar="report.html")
    parser.add_argument("--program", help="test program that writes reports of every kind")
    parser.add_argument("--screenshot", help="PNG to write, of the last report")
    parser.add_argument("--width", type=int, default=1200, help="of the screenshot, in pixels")
    parser.add_argument("--dark", action="store_true", help="screenshot in the dark scheme")
    options = parser.parse_args()
    if not options.reports and not options.program:
        parser.error("name a report or a --program")

    def every_page(scratch):
        pages = made_by(options.program, TEST_CASES, scratch, ("report", "comparison")) if options.program else []
        return options.reports + pages
    return check_pages(every_page, check_page, options.screenshot, options.width, options.dark)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print("FAILED:", failure)
        sys.exit(1)
