"""A report's page: its parts as a parser reads them, and what Debian's chromium shows of it."""

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.reports import figures

VOID = ("meta", "img", "br", "hr")  # tags that are never closed
LOADING = {"link", "iframe", "object", "embed", "base"}
LAYOUT = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  const images = [...document.images], wide = document.documentElement.clientWidth;
  const all = [...document.querySelectorAll("img, .bars, .track, .look, figure, .wide, p, h1")];
  document.title = JSON.stringify({images: images.length,
    broken: images.filter(one => !one.naturalWidth).length,
    wide: document.documentElement.scrollWidth - wide,
    out: all.filter(one => one.getBoundingClientRect().right > wide + 1).length});
});</script>"""


class PageReader(HTMLParser):
    """The tags of a page, the places that it names, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes = Counter[str](), set[str]()
        self.places, self.text, self.open_tags = list[str](), "", list[str]()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.places += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(text: str, scripts: int = 0) -> PageReader:
    """After checking that it parses, loads nothing from elsewhere and has no script but ours."""
    page = PageReader(text)
    assert not page.open_tags and page.tags["script"] == scripts
    assert not page.tags.keys() & LOADING and not re.search(r"@import|url\(", text)
    outside = [place for place in page.places if re.match(r"(?!data:image/)[\w+.-]*:|//", place)]
    assert not outside, outside
    broken = [name for name in page.attributes if not re.fullmatch("[a-z-]+", name)]
    assert not broken, f"text that was not escaped ended an attribute: {broken}"
    return page


class Browser:
    """Of a window so wide. The test is skipped where there is none."""

    def __init__(self, width: int, folder: Path) -> None:
        found = shutil.which("chromium")
        if found is None:
            pytest.skip("no chromium on this machine")
        self.width, self.folder = width, folder
        self.argv = [found, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        self.argv += [f"--window-size={width},2400", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}"]

    def _run(self, *more: str) -> str:
        whole = [*self.argv, *more]
        return subprocess.run(whole, capture_output=True, text=True, timeout=120, check=True).stdout

    def measured(self, page: Path, script: str) -> dict[str, Any]:
        """`script` leaves JSON in the document's title."""
        copy = page.with_name("measured.html")
        copy.write_text(page.read_text().replace("</body>", f"{script}</body>"))
        (title,) = re.findall(r"<title>(.*?)</title>", self._run("--dump-dom", copy.as_uri()))
        return dict(json.loads(html.unescape(title)))

    def inked(self, page: Path) -> tuple[np.ndarray, np.ndarray]:
        """y x: where the page is dark, and where it has the first colour of the charts."""
        shot = self.folder / "page.png"
        self._run(f"--screenshot={shot}", page.as_uri())
        pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
        assert pixels.shape[1] == self.width
        first = [int(figures.COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]
        return pixels.min(2) < 128, np.abs(pixels - first).max(2) < 8
