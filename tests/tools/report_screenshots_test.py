#!/usr/bin/env python3
"""The check of a report's layout finds each kind of fault, and none in a page without. Skipped
where there is no Chromium. Usage: tests/tools/report_screenshots_test.py"""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools" / "interop"))
import report_screenshots  # noqa: E402

CHROMIUM = report_screenshots.find_chromium()
CHART = (
    '<div class="card"><svg aria-label="chart" viewBox="0 0 100 50" style="width:{width}">'
    "{texts}</svg></div>"
)


@unittest.skipIf(CHROMIUM is None, "chromium is not installed")
class LayoutTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = report_screenshots.Browser(CHROMIUM).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.browser.__exit__()

    def faults(self, body, width=1280):
        with tempfile.TemporaryDirectory() as folder:
            page = pathlib.Path(folder) / "page.html"
            page.write_text(f"<!DOCTYPE html><html><body>{body}</body></html>", encoding="utf-8")
            self.browser.events.clear()
            self.browser.resize(width)
            self.browser.open(page)
            return self.browser.layout_faults()

    def expect(self, body, *faults, width=1280):
        found = self.faults(body, width)
        self.assertEqual(len(found), len(faults), found)
        for fault, words in zip(found, faults, strict=False):
            self.assertIn(words, fault)

    def test_good_pages_have_none(self):
        good = CHART.format(
            width="100%", texts='<text x="0" y="20">a</text><text x="50" y="20">b</text>'
        )
        self.expect(good + '<div class="grid" style="display:flex"><p style="flex:1">a</p></div>')

    def test_content_that_leaves_its_box(self):
        wide = (
            '<div style="width:100px;overflow:{}"><div style="width:200px;height:9px"></div></div>'
        )
        self.expect(wide.format("hidden"), "does not hold its content")
        self.expect(wide.format("auto"), "scrolls sideways")
        self.expect(wide.format("auto"), width=400)
        self.expect(
            '<div style="position:absolute;left:0;width:500px">a</div>',
            "the page scrolls sideways",
            width=400,
        )

    def test_texts_that_collide_or_leave_their_card(self):
        self.expect(
            CHART.format(
                width="100%", texts='<text x="0" y="20">one</text><text x="9" y="22">two</text>'
            ),
            "collide",
        )
        self.expect(
            CHART.format(width="100%", texts='<text x="99" y="20">long text</text>'),
            "leaves its card",
            width=1280,
        )

    def test_places_that_are_left_empty(self):
        self.expect(CHART.format(width="30%", texts=""), "leaves its card empty")
        self.expect('<div class="grid" style="display:flex"><p>a</p></div>', "leaves its row empty")

    def test_zeros_with_a_sign(self):
        for zero in ("-0", "-0.00", "12 [-0.0, 3]", "\u22120.0"):
            self.expect(f"<p>{zero}</p>", "a zero has a sign")
        for number in ("-0.5", "-0.05", "w8-0", "1e-05", "-0.00001"):
            self.expect(f"<p>{number}</p>")


if __name__ == "__main__":
    unittest.main()
