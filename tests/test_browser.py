"""results/index.html in a real browser: what it says of its models, its controls, and who can use it."""
import re
import shutil
from pathlib import Path

import pytest
import torch

from data.tokenizer import encode_prompt, load_tokenizer
from support.checkpoint import build_model, load_checkpoint

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it drives the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: it shows the page")
EXPERTS = ["seed", "math", "code", "wiki"]
ARTICLE = Path("results/index.html")
ALL_SEEN = {"width": 1280, "height": 12_000}  # a section computes when it is seen
ANSWERED = "seen.size && all('.box').every(box => box.dataset.done || !seen.has(box.closest('section').id))"


@pytest.fixture
def open_page():
    """Opens the article and waits for its answers. A page makes one request, and no error is in the console."""
    with playwright.sync_playwright() as started:
        browser, events = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]), []

        def opened(address="", viewport=ALL_SEEN, **options):
            page = browser.new_page(viewport=viewport, **options)
            page.set_default_timeout(120_000)
            for event in ("request", "console", "pageerror"):
                page.on(event, lambda happened: events.append(happened))
            page.goto(ARTICLE.resolve().as_uri() + address)
            page.wait_for_function(ANSWERED)
            return page
        yield opened
        assert len(events) == len(browser.contexts)


def counts(page, name, n_cells):
    """Press a button that counts, and wait. Returns {domain: the numbers of right answers, by column}."""
    page.click(f"[value={name}]")
    table = f"section:has([value={name}]) table"
    page.wait_for_function(f"all('{table} td').length === {n_cells} && counted === ''")
    return {row.locator("th").inner_text(): [int(cell.split("/")[0]) for cell in row.locator("td").all_inner_texts()]
            for row in page.locator(f"{table} tr").all()[1:]}


def test_sections_in_the_order_of_reading(open_page):
    page = open_page()
    for verdict in (".wrong", ".right"):
        page.press("[name=hero_off][value=math]", "Space")
        page.wait_for_selector(f"#hero_box {verdict}")
    before = page.inner_text("#charts")
    for step, title, is_shown in (("0", "0", True), ("1", "110", False), ("10", "1100", True)):
        page.fill("#step", step)
        assert page.inner_text("#step_now") == title and page.is_visible("#branch_boxes") == is_shown
        assert (page.inner_text("#charts") == before) == (step == "0")
    page.click("[name=branch]")
    page.wait_for_selector("#branch_boxes .box:nth-child(3) .right")  # code
    page.wait_for_selector("#mixed_box .wrong")
    page.fill("#tune", "5")
    page.wait_for_selector("#tuned_box:has-text('770 steps') .right")
    before = page.inner_text("#inside")
    page.press("#lab_box .chosen", "ArrowRight")
    assert page.inner_text("#inside") != before
    for link in ("seed", "branch", "mix", "finetune", "break", "lab"):  # of the drawing
        page.locator(f"figure a[href='#{link}'] text").first.click()
        assert page.evaluate("location.hash") == f"#{link}" and page.input_value("#tune") == "5"


def test_what_is_counted(open_page):
    """An expert solves its domain in its branch, hardly in the new mixture, less with random routers; then again."""
    page = open_page()
    page.evaluate("data.tasks = data.tasks.slice(0, 60)")  # ten of each domain
    branch, alone, random, average = map(sum, zip(*counts(page, "mix", 12).values(), strict=True))
    assert branch >= 27 and branch - alone > alone - random > 0 and average < 10
    by_length = counts(page, "tune", 36)
    by_expert = counts(page, "break", 30)
    assert by_expert["math"][0] >= 9 and by_expert["math"][1 + EXPERTS.index("math")] <= 1  # what the page says
    for name in EXPERTS[1:]:
        assert by_length[name][0] < by_length[name][-1] / 2
        assert EXPERTS[by_expert[name][1:].index(min(by_expert[name][1:]))] == name
    page.click("[value=break]")
    page.wait_for_selector("#break td:has-text('/2')")
    page.click("[value=break]")  # stops it
    page.wait_for_function("!unanswered.length && counted === ''")
    before = page.inner_text("#break table")
    page.wait_for_timeout(500)
    assert page.inner_text("#break table") == before


def test_the_reader_comes_before_counting(open_page):
    """While an answer is written, no new task is counted; one may be under way."""
    page = open_page("#count=break", viewport={"width": 1280, "height": 720})
    page.wait_for_selector("#break td:has-text('/2')", state="attached")
    texts = page.evaluate("""async () => {
        const table = document.querySelector("#break table"), box = $("hero_box");
        $("hero_box").closest("section").querySelector("button").click();
        await new Promise(resolve => setTimeout(resolve));
        const counted = table.innerText;
        while (!box.dataset.done) await new Promise(resolve => setTimeout(resolve));
        return [counted, table.innerText];
    }""")
    before, later = (sum(map(int, re.findall(r"/(\d+)", text))) for text in texts)
    assert before <= later <= before + 1


@torch.inference_mode()
def test_the_lab(open_page):
    """Logits are PyTorch's, typing never blocks, long texts are refused, markup is text, and the address keeps all.

    What is said of a token is of this answer: nothing of a text that is refused, no gates of a dense model.
    """
    page, ids = open_page(), encode_prompt(load_tokenizer(), "Tom has 3 eggs. Ann")
    found = page.evaluate("ids => [...read_and_write(model_of('math'), ids, 0, 0)].map(r => [...r.logits])", ids)
    logits, _, _ = build_model(load_checkpoint("data/start/math.pt"))(torch.tensor([ids[:-1]]))
    assert (torch.tensor(found) - logits[0]).abs().max() < 0.03  # float16
    n_read = page.evaluate("""draw({ text: 'Tom has 3 eggs. '.repeat(15) }),
        new Promise(resolve => setTimeout(() => resolve($('lab_box').tokens.length)))""")
    assert n_read < 60  # a key would be answered here
    for text, message in (("<img src=x onerror=alert(1)>\n😀", "Not a test task"), (" a" * 300, "300 tokens"),
                          ("x" * 20_000, "20000 characters"), ("", "Not a test task")):
        page.fill("#text", text)
        page.wait_for_selector(f"#lab_box:has-text('{message}'):not(:has(img))")
        assert ("Nothing was read" in page.inner_text("#inside")) == ("The page takes" in page.inner_text("#lab_box"))
    page.click("#deal button:has-text('code')")
    page.wait_for_selector("#lab_box .right")
    page.wait_for_selector("#inside .bar:nth-child(5)")
    likeliest = page.evaluate("[...softmax($('lab_box').tokens.find(({ written }) => written).logits)]")
    assert f"{100 * max(likeliest):.1f}\u00a0%" in page.inner_text("#inside .bar:first-child")
    assert page.locator("#inside tr").count() == 4 and page.is_visible("#k")
    page.select_option("#model", "average")
    page.wait_for_selector("#lab_box .wrong")
    page.wait_for_selector("#inside:has-text('no experts and no gates'):not(:has(td))")
    assert not page.is_visible("#k") and not page.is_visible("[name=off]")
    page.wait_for_function("location.hash.includes('average')")
    assert open_page(page.evaluate("location.hash")).inner_text("#lab_box") == page.inner_text("#lab_box")


@pytest.mark.parametrize("width, height, scheme", [(320, 844, "dark"), (390, 844, "light"), (1280, 720, "dark")])
def test_everybody_can_read_and_reach_it(open_page, width, height, scheme):
    """The drawing is on the first screen; no sideways scrolling, contrast of 4.5, targets of 24 px, a name for each
    control, and no two buttons of one name."""
    page = open_page(viewport={"width": width, "height": 20_000}, color_scheme=scheme)
    drawing = page.locator("figure").first.bounding_box()
    assert drawing["y"] + drawing["height"] < height and page.locator("svg").first.bounding_box()["width"] > 280
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(Path("tests/look.js").read_text()) == []
