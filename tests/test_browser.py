"""results/index.html in a real browser: what it says of the tasks that it deals, its controls, and who can use it."""
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import mix
from data.tokenizer import encode_prompt, load_tokenizer
from support import live
from support.checkpoint import build_model, load_checkpoint

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it drives the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: it shows the page")
ARTICLE = Path("results/index.html").resolve()
LOOK = Path("tests/look.js").read_text()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def open_page(browser):
    """Opens the article. In the end there was no other request and no error in the console."""
    seen = []

    def opened(section="hero", address="", width=1280, height=720, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.on("request", lambda request: seen.append(request.url.split("#")[0]))
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.goto(ARTICLE.as_uri() + address)
        page.wait_for_selector("#hero_box[data-done=yes]")
        page.evaluate("id => $(id).scrollIntoView()", section)
        page.wait_for_function("id => [...$(id).querySelectorAll('.box')].every(b => b.dataset.done || !b.offsetWidth)",
                               arg=section)
        return page
    yield opened
    assert set(seen) == {ARTICLE.as_uri()}


def change(page, boxes, act):
    """Act, wait for the answers in all boxes, a selector, and return whether each is marked as right."""
    page.evaluate("boxes => document.querySelectorAll(boxes).forEach(box => { box.dataset.done = ''; })", boxes)
    act()
    page.wait_for_function("boxes => [...document.querySelectorAll(boxes)].every(box => box.dataset.done)", arg=boxes)
    return ["✓" in text for text in page.locator(f"{boxes} .verdict").all_inner_texts()]


def test_the_article_is_what_the_code_writes(tmp_path):
    """After a change `make page` again. One file of at most 5 MB."""
    page = ARTICLE.read_text()
    data = json.loads(re.search(r'id="data">(.*)</script>', page)[1])
    live.fill(tmp_path / "page.html", data, is_article=True)
    assert page == (tmp_path / "page.html").read_text() and len(page.encode()) < 5e6


@pytest.mark.parametrize("width, height", [(1280, 720), (390, 844)])
def test_the_hero_changes_beside_the_switch(open_page, width, height):
    page = open_page(width=width, height=height)
    switch, next_sum = page.locator("[name=hero_off][value=math]"), page.locator("[data-next=hero]")
    page.evaluate("scrollTo(0, 0)")
    for _ in range(2):
        assert change(page, "#hero_box", switch.click) == [False]
        assert "math switched off" in page.locator("#hero_box .who").inner_text() and page.evaluate("scrollY") == 0
        for shown in (page.locator("#hero_box .verdict"), switch):
            assert shown.bounding_box()["y"] + shown.bounding_box()["height"] < height
        change(page, "#hero_box", next_sum.click)
        assert change(page, "#hero_box", switch.click) == [True]


def test_dealt_tasks_are_as_the_page_says(open_page):
    page = open_page("branch")
    solved = page.evaluate("Promise.all(SAMPLE.map(task => is_right({ name: 'seed', ...task })))")
    assert 5 < sum(solved) < 25  # "right on some tasks and wrong on others"
    for own in ("code", "wiki", "math"):
        right = change(page, "#branch_boxes .box", page.locator("[data-next=branch]").click)
        assert right[1:] == [name == own for name in ("math", "code", "wiki")]
    for value, step in (("1", "110"), ("10", "1100")):  # only the own domain gets better
        page.fill("#step", value)
        assert page.locator("#losses").inner_text().count("▼") == 3 and page.locator("#step_now").inner_text() == step
    page.evaluate("$('mix').scrollIntoView()")
    for kind, million in (("stacked", "0.92"), ("average", "0.33")):
        assert change(page, "#mix_box", page.locator(f"[data-set='mix={kind}']").click) == [False]
        assert change(page, "#mix_box", page.locator("[data-next=task]").click) == [False]
        assert f"become {million} million" in page.locator("#sizes").inner_text()


def test_a_task_of_which_it_would_not_be_true_is_not_dealt(open_page):
    page = open_page()
    for dealt in ("hero", "task", "tuned"):
        at = page.evaluate("""async id => {
            for (const [i, task] of DEALT[id].entries()) if (!await holds(id, task)) return i;
        }""", dealt)
        assert page.evaluate("async ([id, at]) => { await deal(id, at); return Number(S[id]); }", [dealt, at]) > at


def test_finetuning_raises_the_rate(open_page):
    page, rates = open_page("finetune"), []
    for i in range(6):
        page.fill("#tune", str(i))
        page.wait_for_function("$('tune_rate').textContent.includes('of 30') && $('tune_box').dataset.done")
        rates.append(int(page.locator("#tune_rate").inner_text().split()[2]))
    assert rates == sorted(rates) and rates[-1] > 2 * rates[0]
    assert change(page, "#tune_box", page.locator("[data-next=tuned]").click) == [True]
    assert change(page, "#tune_box", lambda: page.fill("#tune", "0")) == [False]


def test_the_table_shows_who_needs_whom(open_page):
    page = open_page("break")
    page.click("[data-set='run=on']")
    for how, best in (("only", max), ("without", min)):
        page.click(f"[data-set='how={how}']")
        page.wait_for_function("how => $('dealt').textContent.includes(`${how}: 5 tasks`)", arg=how)
        for row, name in ((4, "math"), (5, "code"), (6, "wiki")):
            cells = page.locator(f"#table tr:nth-child({row}) td").all_inner_texts()[1:]
            numbers = dict(zip(("seed", "math", "code", "wiki"), map(int, cells), strict=True))
            assert best(numbers, key=numbers.get) == name


@torch.inference_mode()
def test_logits_are_those_of_pytorch(open_page, tmp_path):
    """Of the mixture before finetuning, which the page stacks and averages itself, from weights in float16."""
    mix.main([*(f"data/start/{name}.pt" for name in ("seed", "math", "code", "wiki")), "--out", f"{tmp_path}/mixed.pt"])
    ids = encode_prompt(load_tokenizer(), "Tom has 3 eggs. Ann")
    found = open_page().evaluate("""ids => [...read_and_write(models.find(model => model.name === "steps0"), ids, 0, 0)]
        .map(read => [...read.logits])""", ids)
    logits, _, _ = build_model(load_checkpoint(tmp_path / "mixed.pt"))(torch.tensor([ids[:-1]]))
    assert (torch.tensor(found) - logits[0]).abs().max() < 0.03


def test_typing(open_page):
    """It never blocks, long texts are refused at once, markup stays text, and the address keeps what was chosen."""
    page, box = open_page("lab"), "#lab_box"
    n_read = page.evaluate("""S.text = 'Tom has 3 eggs. '.repeat(15), draw(),
        new Promise(resolve => setTimeout(() => resolve($('lab_box').reads.length)))""")
    assert n_read < 60  # a key would be answered here
    for text, message in (("<img src=x onerror=alert(1)>\n😀", "Not a test task"), (" a" * 300, "300 tokens"),
                          ("x" * 20_000, "20000 characters"), ("", "Not a test task")):
        page.fill("#text", text)
        page.wait_for_function("message => $('lab_box').innerText.includes(message)", arg=message)
        assert page.locator(f"{box} img").count() == 0
    page.click("#deal button:has-text('code')")
    assert change(page, box, lambda: page.select_option("#model", "average")) == [False]
    page.wait_for_function("location.hash.includes('average')")
    again = open_page("lab", page.evaluate("location.hash"))
    assert again.locator(box).inner_text() == page.locator(box).inner_text()


def test_keyboard(open_page):
    page = open_page("one")
    page.focus("#one_box .chosen")
    before = page.locator("#one_panel").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#one_panel").inner_text() != before
    page.focus("[name=hero_off][value=math]")
    assert change(page, "#hero_box", lambda: page.keyboard.press("Space")) == [False]


@pytest.mark.parametrize("width, scheme", [(320, "dark"), (390, "light"), (1280, "dark")])
def test_everybody_can_read_and_reach_it(open_page, width, scheme):
    """No sideways scrolling, contrast of 4.5, targets of 24 px, a name for each control."""
    page = open_page("lab", "#mix=stacked", width=width, scheme=scheme)
    page.evaluate("Object.keys(sections).forEach(id => seen.add(id)); draw()")
    page.wait_for_function("[...document.querySelectorAll('.box')].every(box => box.dataset.done)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width and page.evaluate(LOOK) == []
