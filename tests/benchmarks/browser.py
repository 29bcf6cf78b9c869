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

import pytest

VOID = ("meta", "img", "br", "hr")  # tags that are never closed
LOADING = {"link", "iframe", "object", "embed", "base"}
LAYOUT = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(part => part.open = true);
  const images = [...document.images], wide = document.documentElement.clientWidth;
  const all = [...document.querySelectorAll("img, .bars, .track, .look, figure, .wide, p, h1")];
  document.title = JSON.stringify({images: images.length,
    broken: images.filter(image => !image.naturalWidth).length,
    wide: document.documentElement.scrollWidth - wide,
    out: all.filter(part => part.getBoundingClientRect().right > wide + 1).length});
});</script>"""


class PageReader(HTMLParser):
    """The tags of a page, the addresses that it names, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes = Counter[str](), set[str]()
        self.addresses, self.text, self.open_tags = list[str](), "", list[str]()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("src", "href"):
                self.addresses.append(str(value))
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
    outside = re.compile(r"(?!data:image/)[\w+.-]*:|//")
    loaded = [address for address in page.addresses if outside.match(address)]
    assert not loaded, loaded
    broken = [name for name in page.attributes if not re.fullmatch("[a-z-]+", name)]
    assert not broken, f"text that was not escaped ended an attribute: {broken}"
    return page


def measure_page(page: Path, script: str, width: int) -> dict[str, Any]:
    """What `script` leaves as JSON in the document's title, in a window so wide."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on this machine")
    copy, profile = page.with_name("measured.html"), page.with_name("profile")
    copy.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    argv = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    argv += ["--hide-scrollbars", f"--window-size={width},2400", f"--user-data-dir={profile}"]
    argv += ["--dump-dom", copy.as_uri()]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    (title,) = re.findall(r"<title>(.*?)</title>", ended.stdout)
    return dict(json.loads(html.unescape(title)))
