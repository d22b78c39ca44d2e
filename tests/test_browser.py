"""page/index.html and live.html in a real browser: what they say about models, controls, and accessibility."""
import json
import shutil
from pathlib import Path

import pytest

from page import live

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it drives the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: it shows the page")
EXPERTS = ["seed", "math", "code", "wiki"]


@pytest.fixture
def open_page():
    """A function that opens a page and waits for its answers. The page makes one request and logs no errors."""
    with playwright.sync_playwright() as started:
        browser, events = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]), []

        def opened(address="", viewport=None, path="page/index.html", **options):
            page = browser.new_page(viewport=viewport, **options)
            page.set_default_timeout(120_000)
            for event in ("request", "console", "pageerror"):
                page.on(event, lambda happened: events.append(happened))
            page.goto(Path(path).resolve().as_uri() + address)
            page.wait_for_function("models.length && all('.box').every(box => box.dataset.done)")
            return page
        yield opened
        assert len(events) == len(browser.contexts)


def test_sections_in_the_order_of_reading(open_page):
    page = open_page()
    page.click("[data-deal=hero] button:has-text('code')")
    page.wait_for_selector("#hero_box:has-text('xs') .right")
    before = page.inner_text("#charts")
    page.evaluate("""window.heard = [];
        new MutationObserver(() => heard.push($("said").textContent)).observe($("said"), { childList: true })""")
    for step, title, n_boxes in (("0", "0", 1), ("1", "110", 4), ("10", "1100", 4)):
        page.fill("#step", step)
        assert page.inner_text("#step_now") == title and page.locator("#branch_boxes > :visible").count() == n_boxes
        assert (page.inner_text("#charts") == before) == (step == "0")
    page.wait_for_function("heard.length")
    assert [text.count(" alone.") for text in page.evaluate("heard")] == [4]  # all answers, said at once
    page.click("[name=branch]")
    page.wait_for_selector("#branch_boxes .box:nth-child(3) .right")  # code
    page.wait_for_selector("#tuned_box:has-text('before finetuning') .wrong")
    page.fill("#tune", "5")
    page.wait_for_selector("#tuned_box:has-text('770 steps') .right")
    before = page.inner_text("#inside")
    page.press("#lab_box .chosen", "ArrowRight")
    assert page.inner_text("#inside") != before
    for key, name in (("End", "[end]"), ("Home", "In")):
        page.press("#lab_box .chosen", key)
        assert page.evaluate("document.activeElement.ariaLabel") == f"“{name}”"
    for link in ("seed", "branch", "mix", "finetune"):  # of the drawing
        page.locator(f"figure a[href='#{link}'] text").first.click()
        assert page.evaluate("location.hash") == f"#{link}" and page.input_value("#tune") == "5"


def test_the_picture(open_page):
    """The gates drawn, and their widths, are those that the page computed with. Switched off, math has gates of 0."""
    page = open_page()
    math = page.locator("#hero_box [aria-label=math]")
    for is_off, verdict in ((False, ".right"), (True, ".wrong"), (False, ".right")):
        page.wait_for_selector(f"#hero_box {verdict}")
        n_read = page.locator("#hero_box .token:not(.written)").count()
        for i in (0, n_read, page.locator("#hero_box .token").count() - 1):
            page.locator("#hero_box .token").nth(i).hover()
            gates, numbers, widths = page.evaluate("""i => {
                const box = $("hero_box"), gates = box.tokens[i].routing.map(dense_gates);  // (n_layer, N)
                const number = cell => Number(cell.children[2]?.textContent ?? 0);
                const numbers = gates.map((_, layer) => box.rows.map(row => number(row.children[layer])));
                const width = line => parseFloat(getComputedStyle(line).strokeWidth);
                return [gates.flat(), numbers.flat(), all("#hero_box .line").map(width)];
            }""", i)
            assert numbers == pytest.approx(gates, abs=0.006)
            assert sorted(widths) == pytest.approx(sorted(10 * gate for gate in gates if gate), abs=0.01)
            assert not is_off or not any(gates[1::4])
        assert (page.locator("#hero_box .astray").count() > 0) == ("math switched off" in page.inner_text("#said"))
        if is_off:
            math.press("Space")
        else:
            math.locator("text").last.click()


def test_what_is_counted(open_page):
    """The page's text agrees with its counts. The browser counts the same, one task at a time, after the reader's."""
    page = open_page()

    def right(*who):
        return page.evaluate("who => count_right(...who)", who)
    for name in EXPERTS[1:]:
        rest = [other for other in EXPERTS if other != name]
        assert right(name, name) > 35 and 20 > right(name, "steps0", rest) > right(name, "steps0")
        assert right(name, "steps770", [name]) < 5 < 30 < min(right(name, "steps770", [other]) for other in rest)
    assert all(right(domain, "steps770", ["seed"]) >= right(domain) - 2 for domain in page.evaluate("domains"))
    page.click("[aria-label=code] >> text=without code")
    page.wait_for_selector("#lab_box:has-text('code switched off') .wrong")
    page.wait_for_function("location.hash.includes('text_off=code')")
    page.go_back()
    page.wait_for_function("!S.text_off")
    page.locator("#results_plots [role=button]").nth(7).focus()
    assert page.inner_text("#numbers").startswith("BTX: ")
    assert right("trivia") < right("trivia", "steps0") - 5 and right("switch") > right("switch", "steps0") + 5
    page.evaluate("""data.tasks = data.tasks.slice(0, 12);
        data.counts[3].solved = data.counts[3].solved.replace(/^./, bit => 1 - bit)""")  # a mistake
    page.click("#count")
    page.wait_for_selector("#count_now:has-text('answers')")
    assert page.evaluate("""async () => {
        const counted = () => parseInt($("count_now").textContent), before = counted();
        await Array.fromAsync(read({ name: "steps0", prompt: S.text }));
        return counted() - before;
    }""") <= 1
    page.wait_for_selector("#count_now:has-text('228 of 228 answers counted, 227 as in PyTorch')")


@pytest.mark.parametrize("is_article", [True, False])  # live.html has no other section
def test_the_lab(open_page, is_article, tmp_path):
    """Typing never blocks, long texts are refused, markup is shown as text, and the address stores everything.

    What the page says about a token belongs to this answer: nothing if the text is refused, no gates if it is dense.
    """
    path = tmp_path / "page.html"
    live.fill(path, json.loads(open_page().locator("#data").text_content()), is_article)
    page = open_page(path=path)
    n_read = page.evaluate("""draw({ text: 'Tom has 3 eggs. '.repeat(15) }),
        new Promise(resolve => setTimeout(() => resolve($('lab_box').tokens.length)))""")
    assert n_read < 60  # a key would be answered here
    for text, message in (("<img src=x onerror=alert(1)>\n😀", "Not a test task"), (" a" * 300, "300 tokens"),
                          ("x" * 20_000, "20000 characters"), ("", "Not a test task")):
        page.fill("#text", text)
        page.wait_for_selector(f"#lab_box:has-text('{message}'):not(:has(img))")
        assert ("Nothing was read" in page.inner_text("#inside")) == ("The page takes" in page.inner_text("#lab_box"))
    page.click("[data-deal=text] button:has-text('code')")
    page.wait_for_selector("#lab_box .right")
    page.wait_for_selector("#inside .bar:nth-child(5)")
    likeliest = page.evaluate("[...softmax($('lab_box').tokens.find(({ written }) => written).logits)]")
    assert f"{100 * max(likeliest):.1f}\u00a0%" in page.inner_text("#inside .bar:first-child")
    assert page.locator("#inside p").count() == 4 and page.is_visible("#k")
    page.select_option("#model", "average")
    page.wait_for_selector("#lab_box .wrong")
    page.wait_for_selector("#inside:has-text('no gates')")
    assert not page.is_visible("#k") and not page.is_visible("#lab_box svg")
    page.wait_for_function("location.hash.includes('average')")
    assert open_page(page.evaluate("location.hash"), path=path).inner_text("#lab_box") == page.inner_text("#lab_box")


@pytest.mark.parametrize("width, height, scheme", [(320, 844, "dark"), (390, 844, "light"), (1280, 720, "dark")])
def test_everybody_can_read_and_reach_it(open_page, width, height, scheme):
    """The drawing is on the first screen; no sideways scrolling, contrast of 4.5, targets of 24 px, a name for each
    control, and no two buttons of one name."""
    page = open_page(viewport={"width": width, "height": 20_000}, color_scheme=scheme)
    picture = page.locator("svg").first.bounding_box()
    assert picture["y"] + picture["height"] < height and picture["width"] > 250
    page.evaluate("$('said').textContent = 'x'.repeat(999), moe.config.n_layer = 12, draw({})")
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # twelve layers scroll inside the picture
    assert page.evaluate("$('hero_box').picture.parentNode.scrollWidth") > 500
    assert page.evaluate(Path("tests/look.js").read_text()) == []
