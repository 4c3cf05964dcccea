"""The pages in a real browser: nothing is asked for, nothing cut off, tables sort and filter, keys are enough.

Needs Chromium of the system (Debian: apt-get install chromium) and Playwright, which drives it; without them it skips.
"""

import shutil

import pytest
from stub_trials import StubPool

from fednas_jax.cli.app import main
from fednas_jax.sweep import running
from fednas_jax.sweep.designs import grid

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    # Playwright's own loop, which pytest's later tests would take for a leak.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(finished_run, tmp_path_factory):
    """A run's page, two runs', a sweep's."""
    folder = tmp_path_factory.mktemp("pages")
    out = {name: folder / name for name in ("run", "runs", "sweep")}
    other = folder / "other"
    shutil.copytree(finished_run, other)
    assert main(["report", str(finished_run), "--out", str(out["run"]), "--no-pdf"]) == 0
    assert main(["report", str(finished_run), str(other), "--out", str(out["runs"]), "--no-pdf"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_pool", lambda *of_sweep: StubPool())
        design = grid({"method": ["fednas", "naive"], "data.alpha": [0.5, 1.0], "seed": [0, 1, 2]})
        running.run_sweep(design, out["sweep"], "digits")
    assert main(["report", str(out["sweep"]), "--no-pdf"]) == 0
    return {name: path / "report.html" for name, path in out.items()}


def opened(browser, path, width=1400, **context):
    """A page after its charts are drawn; what it said and asked for, as lists that grow."""
    page = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('[data-chart]')].every(place => !place.querySelector(':scope > svg'))"
    )
    return page, said, asked


# What is wider than its place and cannot be scrolled there, and text that is cut off.
CUT = """() => [...document.querySelectorAll('main *')].filter(e => {
  const place = e.closest('.scroll, .drawing');
  if (place) return place === e && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'auto';
  const box = e.getBoundingClientRect();
  return box.right > innerWidth + 1 || box.left < -1 || e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
    && getComputedStyle(e).overflowX === 'hidden';
}).map(e => e.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (400, "light"),
        (1400, "dark"),
        pytest.param(400, "dark", marks=pytest.mark.exhaustive),
        pytest.param(1400, "light", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("name", ["run", "runs", "sweep"])
def test_a_page_asks_for_nothing_complains_of_nothing_and_cuts_nothing_off(name, width, scheme, pages, browser):
    page, said, asked = opened(browser, pages[name], width, color_scheme=scheme)
    assert said == []
    assert asked == [pages[name].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == []
    page.context.close()


def test_without_scripts_every_figure_is_drawn(pages, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["run"].as_uri())
    figures = page.locator("figure")
    assert figures.count() >= 8
    assert figures.locator(".drawing > svg").count() == figures.count()
    context.close()


def column(page, number):
    return page.eval_on_selector_all(
        "table.sortable tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{number}].textContent)"
    )


def test_a_table_is_sorted_by_keys_alone(pages, browser):
    page, said, _ = opened(browser, pages["sweep"])
    heading = page.get_by_role("button", name="seed", exact=True)
    number = heading.evaluate("e => e.parentElement.cellIndex")
    heading.focus()
    page.keyboard.press("Enter")
    assert column(page, number) == [str(n) for n in (0, 1, 2) for _ in range(4)]
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("seed")
    page.keyboard.press("Space")
    assert column(page, number) == [str(n) for n in (2, 1, 0) for _ in range(4)]
    assert heading.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"  # who uses keys sees where he is
    assert said == []
    page.context.close()


def test_a_table_is_filtered_by_words_and_comparisons(pages, browser):
    page, _, _ = opened(browser, pages["sweep"])
    search, count = page.get_by_role("searchbox"), page.locator("output")
    for text, shown in (
        ("naive", 6),
        ("method = fednas and seed > 0", 4),
        ("data.alpha <= 0.5 and seed != 1 and naive", 2),
        ("accuracy_25 >= 0.702", 4),
        ("nothing of the kind", 0),
        ("", 12),
    ):
        search.fill(text)
        assert len(column(page, 0)) == shown, text
        assert count.inner_text() == f"{shown} of 12 rows"
    page.context.close()


def test_a_chart_tells_of_what_is_pointed_at(pages, browser):
    page, said, _ = opened(browser, pages["run"])
    page.locator("[data-chart=front] path[aria-roledescription=point]").first.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "widths" in page.locator("#vg-tooltip-element").inner_text()
    assert said == []
    page.context.close()


def test_every_figure_and_table_has_a_name_for_those_who_do_not_see_it(pages, browser):
    page, _, _ = opened(browser, pages["run"])
    drawings = page.locator(".drawing")
    for number in range(drawings.count()):
        assert len(drawings.nth(number).get_attribute("aria-label")) > 20
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("[role=region]:not([aria-labelledby])").count() == 0
    assert page.evaluate("document.documentElement.lang") == "en"
    page.context.close()


# WCAG's relative luminance, and the contrast of all text with the ground under it.
CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  return [...document.querySelectorAll('h1, h2, p, dt, dd, th, td, figcaption, label, output, button, code')].map(e => {
    const a = light(rgb(getComputedStyle(e).color)), b = light(ground(e));
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 80)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme, pages, browser):
    page, _, _ = opened(browser, pages["sweep"], color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    page.context.close()
