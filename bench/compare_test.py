#!/usr/bin/env python3
"""compare.py on made-up results: its numbers, its page (in headless Chromium where there is one), its complaints."""

import contextlib
import html.parser
import io
import json
import pathlib
import sys
import tempfile
import unittest

import compare
import comparison

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "vmoe_report"))
import browser_test  # noqa: E402  (drives Chromium)

DENSE = "route/router:dense/experts:8/tokens:64"
SOFT = "route/router:soft/capacity:factor-1.25/experts:8/tokens:64"


def entry(name, milliseconds, repetition=0, **counters):
    return {"name": name, "run_name": name, "run_type": "iteration", "repetitions": 3, "repetition_index": repetition,
            "threads": 1, "iterations": 10, "real_time": milliseconds, "cpu_time": milliseconds, "time_unit": "ms", **counters}


def repeated(name, times, **counters):
    entries = [entry(name, t, i, **counters) for i, t in enumerate(times)]
    mean = sum(times) / len(times)
    return entries + [{**entry(name, mean), "name": name + "_mean", "run_type": "aggregate", "aggregate_name": "mean"}]


CONTEXT = {"date": "2026-01-02T03:04:05+00:00", "host_name": "secret-host", "executable": "/somewhere/private/bench_routers",
           "num_cpus": 2, "mhz_per_cpu": 2300, "library_build_type": "release", "load_avg": [1.0],
           "caches": [{"type": "Data", "level": 1, "size": 49152, "num_sharing": 1}]}


def study(scale=1.0):
    """Four routers, three sizes, two logits: three repetitions of each, 4 % apart."""
    entries = []
    for r, router in enumerate(["dense", "softmax_token_choice", "sinkhorn_token_choice", "soft"]):
        for logits in ["gaussian", "zipf"]:
            for tokens in [256, 1024, 4096]:
                time = scale * (1 + 0.4 * r) * tokens / 1000
                entries += repeated(f"route/router:{router}/logits:{logits}/experts:32/tokens:{tokens}/real_time",
                                    [time, 1.02 * time, 1.04 * time], drop_rate=0.01 * r, tokens_per_second=tokens / time)
    return entries


class Page(html.parser.HTMLParser):
    """What a page refers to, and its visible table."""

    def __init__(self, text):
        super().__init__()
        self.outside, self.rows, self.open, self.hidden = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        for key in ("src", "href"):
            if not values.get(key, "data:").startswith(("data:", "#")):
                self.outside.append(values[key])
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)
        if tag == "tbody":
            self.hidden = "hidden" in values
        if tag == "tr" and "data-row" in values and not self.hidden:
            self.rows.append([])
        if tag == "td" and not self.hidden:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        expected = self.open.pop()
        assert expected == tag, f"</{tag}> ends <{expected}>"

    def handle_data(self, data):
        if self.open and self.open[-1] == "td" and not self.hidden:
            self.rows[-1][-1] += data


class CompareTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def file(self, name, entries):
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps({"context": CONTEXT, "benchmarks": entries}))
        return str(path)

    def run_it(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = compare.main(list(arguments))
        return code, out.getvalue(), err.getvalue()

    def table(self, *arguments):
        code, out, err = self.run_it(*arguments)
        self.assertEqual((0, ""), (code, err))
        rows = [[c.strip() for c in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
        return [dict(zip(rows[0], row)) for row in rows[2:]]

    def complains(self, text, *arguments):
        code, out, err = self.run_it(*arguments)
        self.assertEqual((2, ""), (code, out))
        self.assertEqual(1, err.count("\n"), err)
        self.assertIn(text, err)

    def test_names_become_family_and_axes(self):
        self.assertEqual(comparison.split_name("route/router:soft/capacity:factor-1.25/backward:1/min_time:2.000/real_time"),
                         ("route", {"router": "soft", "capacity": "factor-1.25", "backward": "1"}))
        self.assertEqual(comparison.split_name("nano/train/64/threads:2"), ("nano/train", {"arg1": "64", "threads": "2"}))

    def test_ratio_and_noise_of_two_files(self):
        old = self.file("old", repeated(DENSE, [10, 11, 12]) + repeated(SOFT, [20, 21, 22]))
        new = self.file("new", repeated(DENSE, [11.5, 12.1, 13]) + repeated(SOFT, [8, 9, 10]))
        rows = self.table(old, new)
        self.assertEqual([r["ratio to old"] for r in rows],
                         ["1", "1", "1.10 (0.958 – 1.30)", "0.429 (0.364 – 0.500)"])
        self.assertEqual(rows[2]["difference"], "10.0 % more time than old: within the noise.")
        self.assertEqual(rows[3]["difference"], "57.1 % less time than old: above the noise.")
        self.assertEqual(rows[3]["time"], "9.00 ms (8.00 ms – 10.0 ms)")
        swapped = self.table(old, new, "--baseline", "new")
        self.assertEqual(swapped[1]["ratio to new"], "2.33 (2.00 – 2.75)")
        self.assertEqual(swapped[1]["difference"], "2.33 times the time of new: above the noise.")

    def test_one_repetition_says_that_noise_is_unknown(self):
        rows = self.table(self.file("a", [entry(DENSE, 1)]), self.file("b", [entry(DENSE, 3), entry(SOFT, 3)]))
        self.assertEqual(rows[1]["difference"], "3.00 times the time of a: the noise is not known (one repetition).")
        self.assertEqual(rows[2]["difference"], "no counterpart")

    def test_aggregates_alone_give_median_and_two_deviations(self):
        def only(kind, time):
            return {**entry(DENSE, time), "name": f"{DENSE}_{kind}", "run_type": "aggregate", "aggregate_name": kind}
        rows = self.table(self.file("a", [only("mean", 9), only("median", 10), only("stddev", 0.5)]))
        self.assertEqual((rows[0]["time"], rows[0]["repetitions"]), ("10.0 ms (9.00 ms – 11.0 ms)", "aggregate"))

    def test_against_a_row_of_the_same_file_that_lacks_an_axis(self):
        rows = self.table(self.file("a", repeated(DENSE, [10, 10, 11]) + repeated(SOFT, [30, 31, 32])),
                          "--against", "router:dense")
        self.assertEqual([r["difference"] for r in rows], ["baseline", "3.10 times the time of router:dense: above the noise."])

    def test_times_of_other_work_are_said_to_be(self):
        path = self.file("a", repeated(DENSE, [10, 10, 11], rows_per_token=2.0)
                         + repeated(SOFT, [5, 5, 6], rows_per_token=1.5)
                         + repeated(SOFT.replace("soft", "hash"), [5, 5, 6], rows_per_token=1.999))
        rows = self.table(path, "--against", "router:dense")
        self.assertEqual([r["rows_per_token"] for r in rows], ["2.00", "1.50", "2.00"])
        self.assertEqual([r["difference"] for r in rows],
                         ["baseline",
                          "50.0 % less time than router:dense: above the noise. Other work: 1.50 rows per token, not 2.00.",
                          "50.0 % less time than router:dense: above the noise."])
        self.assertNotIn("Other work", self.table(path, "--against", "router:dense", "--metric",
                                                  "rows_per_token")[1]["difference"])

    def test_other_metric_and_its_direction(self):
        old = self.file("old", repeated(DENSE, [1, 1, 1], tokens_per_second=2e6))
        new = self.file("new", repeated(DENSE, [1, 1, 1], tokens_per_second=3e6))
        rows = self.table(old, new, "--metric", "tokens_per_second")
        self.assertEqual(rows[1]["tokens_per_second"], "3.00 M")
        self.assertEqual(rows[1]["difference"], "50.0 % more than old: above the noise.")
        page = self.folder / "p.html"
        self.table(old, new, "--metric", "tokens_per_second", "--html", str(page))
        self.assertIn('<td class="verdict better">50.0 % more', page.read_text())

    def test_skipped_benchmarks_are_named(self):
        path = self.file("a", [entry(DENSE, 1), {**entry(SOFT, 0), "error_occurred": True, "error_message": "no slots"}])
        code, out, _ = self.run_it(path)
        self.assertEqual(code, 0)
        self.assertIn(f"Not measured in a: {SOFT}: no slots", out)

    def test_complaints(self):
        good = self.file("good", [entry(DENSE, 1)])
        other = self.file("other", [entry(SOFT, 1)])
        broken = self.folder / "broken.json"
        broken.write_text('{"benchmarks": [')
        self.complains("missing.json: cannot be read: No such file", str(self.folder / "missing.json"))
        self.complains("broken.json: not JSON", str(broken))
        broken.write_text('{"rows": []}')
        self.complains("no results of Google Benchmark", str(broken))
        self.complains("holds no measured benchmark", self.file("empty", []))
        self.complains("other and good have no benchmark in common", good, other)
        self.complains("--baseline x: no such file; there are good, other", good, other, "--baseline", "x")
        self.complains("no other benchmark has a counterpart", good, "--against", "router:none")
        self.complains("--against dense: expected AXIS:VALUE", good, "--against", "dense")
        self.complains("--metric speed: not measured; there are time, cpu_time", good, "--metric", "speed")
        self.complains("cannot be written", good, "--markdown", str(self.folder / "no" / "a.md"))

    def make_page(self, *arguments):
        page = self.folder / "page.html"
        markdown = self.folder / "table.md"
        code, out, err = self.run_it(*arguments, "--html", str(page), "--markdown", str(markdown))
        self.assertEqual((0, "", ""), (code, out, err))
        return page, markdown.read_text()

    def test_page_and_table_state_machine_date_and_command_without_paths(self):
        page, markdown = self.make_page(self.file("old", study()), self.file("new", study(1.3)))
        text = page.read_text()
        parsed = Page(text)
        self.assertEqual(parsed.open, [])
        self.assertEqual(parsed.outside, [])
        self.assertEqual(len(parsed.rows), 48)
        self.assertEqual(parsed.rows[47][-1], "30.0 % more time than old: above the noise.")
        for output in (text, markdown):
            for fact in ("2026-01-02T03:04:05", "bench_routers", "L1 data 48 KiB", "bench/compare.py old.json new.json"):
                self.assertIn(fact, output)
            for private in ("secret-host", "/somewhere", str(self.folder)):
                self.assertNotIn(private, output)

    def test_values_cannot_leave_the_markup(self):
        evil = "route/router:</script><b>x/tokens:1"
        page, _ = self.make_page(self.file("a", [entry(evil, 1), entry("route/router:b|c/tokens:2", 2)]))
        self.assertEqual(Page(page.read_text()).open, [])

    def test_page_in_a_browser(self):
        chromium = browser_test.find_chromium()
        if chromium is None:
            self.skipTest("no Chromium found")
        self.file("old", study())
        self.file("new", study(1.3))
        self.file("least", [entry("step", 1)])
        browser = browser_test.Browser(chromium, str(self.folder))
        self.addCleanup(browser.close)
        for arguments, points in ((["old", "new"], 48), (["old"], 24), (["least"], 1)):
            with self.subTest(files=arguments):
                paths = [str(self.folder / f"{a}.json") for a in arguments]
                page, _ = self.make_page(*paths)
                for width, dark in ((1200, False), (360, True)):
                    browser.show(width, dark)
                    browser.open(page)
                    self.assertEqual(browser.complaints(page), [])
                    self.assertEqual(browser.evaluate("document.documentElement.dataset.ready"), "true")
                    self.assertEqual(browser.evaluate("document.querySelectorAll('.point').length"), points)
                    self.assertIsNone(browser.evaluate(browser_test.OVERFLOW))
                self.assertEqual(browser.evaluate("document.querySelectorAll('.error').length"), 0 if points == 1 else points)
                self.use(browser, points)
                self.assertEqual(browser.complaints(page), [])

    def use(self, browser, points):
        readout = "document.querySelector('.readout').textContent"
        browser.evaluate("document.querySelector('figure svg').focus()")
        browser.press("Home")
        first = browser.evaluate(readout)
        self.assertIn("time ", first)
        if points == 1:
            return
        browser.press("ArrowRight")
        self.assertNotEqual(browser.evaluate(readout), first)
        browser.evaluate("[...document.querySelectorAll('#filters label')]"
                         ".find(l => l.textContent === 'zipf').querySelector('input').click()")
        self.assertEqual(browser.evaluate("document.querySelectorAll('.point').length"), points // 2)
        self.assertEqual(browser.evaluate(
            "document.querySelectorAll('tbody:not([hidden]) tr:not([hidden])').length"), points // 2)
        browser.evaluate("(() => { const m = document.getElementById('metric'); m.value = 'drop_rate';"
                         " m.dispatchEvent(new Event('change')); })()")
        self.assertEqual(browser.evaluate("document.querySelector('tbody:not([hidden])').dataset.metric"), "drop_rate")
        browser.evaluate("[...document.querySelectorAll('th button')].find(b => b.textContent === 'median').click()")
        values = browser.evaluate("Array.from(document.querySelectorAll('tbody:not([hidden]) tr'), "
                                  "r => Number(r.querySelector('[data-value]').dataset.value))")
        self.assertEqual(values, sorted(values))


if __name__ == "__main__":
    unittest.main()
