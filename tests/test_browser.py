"""results/index.html in a real browser: what it says of its models, its controls, and who can use it."""
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


@pytest.fixture
def open_page():
    """Opens the article and waits for its answers. A page makes one request, and no error is in the console."""
    with playwright.sync_playwright() as started:
        browser, events = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]), []

        def opened(address="", **options):
            page = browser.new_page(**options)
            page.set_default_timeout(120_000)
            for event in ("request", "console", "pageerror"):
                page.on(event, lambda happened: events.append(happened))
            page.goto(Path("results/index.html").resolve().as_uri() + address)
            page.wait_for_function("all('.box').every(box => box.dataset.done || !box.offsetWidth)")
            return page
        yield opened
        assert len(events) == len(browser.contexts)


def test_sections_in_the_order_of_reading(open_page):
    page, rates = open_page(), []
    for verdict in (".wrong", ".right"):
        page.press("[name=hero_off][value=math]", "Space")
        page.wait_for_selector(f"#hero_box {verdict}")
    for step, title in enumerate(("0", "110", "220")):  # only the own domain gets better
        page.fill("#step", str(step))
        assert page.inner_text("#step_now") == title and page.inner_text("#charts").count("▼") == (3 if step else 0)
    page.click("[name=branch]")
    page.wait_for_selector("#branch_boxes .box:nth-child(3) .right")  # code
    for name, million in (("steps0", "0.92"), ("average", "0.33")):
        page.click(f"[value={name}]")
        page.wait_for_selector(f"#sizes:has-text('become {million} million') ~ #why_{name} ~ #mixed_box .wrong")
    for i in range(6):
        page.fill("#tune", str(i))
        rates.append(int(page.inner_text("#tuned_rate:has-text('/30')").split("/")[0]))
    assert rates == sorted(rates) and rates[-1] > 2 * rates[0]
    for how, best in (("only", max), ("without", min)):
        page.click(f"[value={how}]")
        page.wait_for_function("all('#table td').every(cell => cell.innerText.split('/')[1] > 2)")
        for row, name in ((4, "math"), (5, "code"), (6, "wiki")):
            cells = page.locator(f"#table tr:nth-child({row}) td").all_inner_texts()[1:]
            rates = [int(right) / int(n) for right, n in (cell.split("/") for cell in cells)]
            assert EXPERTS[rates.index(best(rates))] == name
    before = page.inner_text("#token_table")
    page.press("#one_box .chosen", "ArrowRight")
    assert page.inner_text("#token_table") != before


def test_what_the_page_says_of_its_models(open_page):
    """An expert solves its domain alone; neither the others nor a mixture do before finetuning."""
    page = open_page()

    def count(domain, **who):  # of ten tasks that the page deals
        page.evaluate("([domain, who]) => rate(element('p', '', $('lab')), tasks_of([domain]).slice(0, 10), who)",
                      [domain, who])
        return int(page.inner_text("#lab > p:last-child").split("/10")[0])
    assert count("math") >= 9 and count("math", off=["math"]) <= 1 and count("general", name="seed") >= 9
    for domain in EXPERTS[1:]:
        right = {name: count(domain, name=name) for name in (*EXPERTS, "steps0", "average")}
        assert right.pop(domain) >= 8 and max(right.values()) <= 2


@torch.inference_mode()
def test_the_lab(open_page):
    """Logits are PyTorch's, typing never blocks, long texts are refused, markup is text, and the address keeps all."""
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
    page.click("#deal button:has-text('code')")
    page.wait_for_selector("#lab_box .right")
    page.select_option("#model", "average")
    page.wait_for_selector("#lab_box .wrong")
    page.wait_for_function("location.hash.includes('average')")
    assert open_page(page.evaluate("location.hash")).inner_text("#lab_box") == page.inner_text("#lab_box")


@pytest.mark.parametrize("width, height, scheme", [(320, 844, "dark"), (390, 844, "light"), (1280, 720, "dark")])
def test_everybody_can_read_and_reach_it(open_page, width, height, scheme):
    """Hero on the first screen, no sideways scrolling, contrast of 4.5, targets of 24 px, a name for each control."""
    page = open_page("#mix=steps0", viewport={"width": width, "height": height}, color_scheme=scheme)
    for part in ("#hero_box [role=status]", "[name=hero_off][value=wiki]"):
        assert page.locator(part).bounding_box()["y"] < height - 40
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(Path("tests/look.js").read_text()) == []
