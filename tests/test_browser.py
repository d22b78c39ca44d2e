"""page/index.html and live.html in a real browser: one visit."""
import shutil
from pathlib import Path

import pytest

import mix
from data.task import Task
from page import live
from support.checkpoint import load_checkpoint

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it drives the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: it shows the page")
def test_a_visit_on_a_phone(tmp_path):
    """The article answers, and goes wrong without the math expert. A page of five experts names its model and them."""
    five = [f"data/start/{name}.pt" for name in ("seed", "math", "code", "wiki", "seed")]
    mix.main([*five, "--out", f"{tmp_path}/five.pt"])
    tasks = {"math": [Task("Tom has 3 apples.", " 3")]}
    live.write_page(tmp_path / "live.html", {"five": load_checkpoint(tmp_path / "five.pt")}, tasks)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, events = browser.new_page(viewport={"width": 390, "height": 20_000}), []
        page.set_default_timeout(120_000)
        for event in ("request", "console", "pageerror"):
            page.on(event, lambda happened: events.append(happened))
        page.goto(Path("page/index.html").resolve().as_uri())
        page.wait_for_selector("#hero_box .right")
        page.wait_for_selector("#hero_box .chosen")
        assert page.evaluate(Path("tests/drawn.js").read_text()) == []
        page.locator("#hero_box [aria-label=math]").press("Space")
        page.wait_for_selector("#hero_box .wrong")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(Path("tests/look.js").read_text()) == []  # contrast, sizes and names of controls
        page.goto((tmp_path / "live.html").as_uri())
        page.wait_for_selector("#lab_box[data-done=yes]")
        shown = page.inner_text("#lab_box")
        assert "mixture five, k = 2" in shown and "1 seed, M math, C code, W wiki, 5 seed_2" in shown
        assert len(events) == 2  # one request for each page, no error and no message
