"""The page as a browser shows it: no errors, nothing asked for, nothing beyond its width, and something to see."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from sciencessl.evaluate.report import report
from sciencessl.evaluate.results import RESULT, TransferResult
from sciencessl.store.reader import Store

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1200, 6000
# The page has no scripts, so that whatever else is on the console is an error: the log does not tell its level.
PROBE = """
<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(
    e => e.getBoundingClientRect().right > innerWidth && !e.closest(".scroll *"));  // a wide table scrolls by itself
  const broken = [...document.images].filter(e => !e.complete || e.naturalWidth === 0);
  console.log("SEEN " + JSON.stringify({
    window: innerWidth, page: document.documentElement.scrollWidth, images: document.images.length,
    wide: wide.map(e => e.tagName), broken: broken.map(e => e.alt),
  }));
});
</script>
"""


@dataclass(frozen=True)
class Rendering:
    """What the browser left behind."""

    code: int
    log: str
    pixels: np.ndarray

    @property
    def console(self) -> list[str]:
        """What was said on the console, the probe's own line left out."""
        return [line for line in self.log.splitlines() if "CONSOLE" in line and '"SEEN {' not in line]

    @property
    def seen(self) -> Mapping[str, Any]:
        """What the probe found."""
        (line,) = re.findall(r'"SEEN (\{.*\})", source', self.log)
        found: Mapping[str, Any] = json.loads(line)
        return found


def whole_run(folder: Path, run: Path, store: Store, result: TransferResult) -> Path:
    """A finished run with everything that the page shows, and a transfer beside it."""
    shutil.copytree(run, folder)
    views = {"size": 32}
    settings = {"data": str(store.path), "method": "byol", "backbone": "test_resnet", "labels": [], "seed": 0,
                "batch": 8, "steps": 10, "optim": {"name": "adamw"}, "views": views}
    cost = {"images_seen": 80, "steps": 10, "device": "cpu", "wall_seconds": 150.0, "device_hours": 0.0417,
            "estimated_operations": 8e10, "peak_memory_bytes": 3 * 2**30, "tuning_trials": 3}
    rows = [{"step": step, "images": 8 * step, "loss": 2.0 / step, "lr": 0.1, "images_per_s": 50.0, "std": 0.5,
             "effective_rank": 9.0} for step in (1, 5, 10)]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "libraries": {"torch": "9.9"}}))
    (folder / "cost.json").write_text(json.dumps(cost))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    costs = {name: cost for runs in result.members.values() for name in runs}
    (folder / "transfer").mkdir()
    text = json.dumps(replace(result, cost=costs).to_json())
    (folder / "transfer" / RESULT).write_text(text)
    return folder


@pytest.fixture
def page(tmp_path: Path, run: Path, survey: Store, full_result: TransferResult) -> Path:
    return report(whole_run(tmp_path / "byol-1", run, survey, full_result))


def render(text: str, folder: Path) -> Rendering:
    """The page with the probe in it, in a browser without a screen."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    probed, shot = folder / "probed.html", folder / "shot.png"
    probed.write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-extensions", "--disable-background-networking", "--hide-scrollbars", "--enable-logging=stderr",
         "--v=0", f"--user-data-dir={folder / 'profile'}", f"--screenshot={shot}", f"--window-size={WIDTH},{HEIGHT}",
         "--virtual-time-budget=3000", probed.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert shot.is_file(), done.stderr[-2000:]
    assert shot.read_bytes().startswith(b"\x89PNG")
    return Rendering(done.returncode, done.stderr, cv2.imread(str(shot)))


def test_a_full_page_renders_without_errors_and_fits(page: Path, tmp_path: Path) -> None:
    found = render(page.read_text(encoding="utf-8"), tmp_path)
    assert (found.code, found.console) == (0, [])
    seen = found.seen
    assert (seen["broken"], seen["wide"]) == ([], [])
    assert seen["page"] == seen["window"] == WIDTH
    assert seen["images"] > 12
    assert found.pixels.shape == (HEIGHT, WIDTH, 3)
    for part in np.array_split(found.pixels, 4):  # the last quarter lies far below the fold
        assert len(np.unique(part.reshape(-1, 3), axis=0)) > 100


def test_what_is_wrong_with_a_page_is_seen(tmp_path: Path) -> None:
    bad = (
        "<body><script>throw new Error('boom')</script><img src='gone.png' alt='gone' width='9' height='9'>"
        "<h1 style='width: 3000px'>wide</h1><div class='scroll' style='overflow-x: auto; width: 99px'>"
        "<p style='width: 2000px'>scrolls</p></div></body>"
    )
    found = render(bad, tmp_path)
    assert len(found.console) == 1
    assert "boom" in found.console[0]
    seen = found.seen
    assert (seen["broken"], seen["wide"]) == (["gone"], ["H1"])
    assert seen["page"] > WIDTH
    assert len(np.unique(found.pixels[HEIGHT // 2 :].reshape(-1, 3), axis=0)) == 1


def test_a_full_page_names_no_other_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r'\b(?:src|srcset|href|action|poster|data)="([^"]*)"', text)
    assert len(sources) > 20
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert not re.search(r"url\(|@import|<script|https?://", text)
