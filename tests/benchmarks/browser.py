"""A report's page in Debian's chromium: what a script measures there, and how it looks."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.reports import figures


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
