"""The pages in a real browser: headless Chromium clicks through them."""

import json
import shutil

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime
pytest.importorskip("selenium", reason="selenium is not installed")

from report_cases import HOSTILE, write_case
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from yolor_d2.report.collect import build_report
from yolor_d2.report.comparison_page import render_comparison
from yolor_d2.report.files import to_json
from yolor_d2.report.page import render_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "")
DRIVER = shutil.which("chromedriver") or ""

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with chromedriver on this machine"
)

# A phone and a desktop.
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Folder of a report with everything on it, and of a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    names = [*HOSTILE, *(f"class {i}" for i in range(12))]
    stages = ("loading", "preprocess", "network", "postprocess", "recording")
    reports = []
    for seed in (0, 1):
        report = to_json(build_report(write_case(folder / str(seed), names, images=8, seed=seed)))
        report["speed"] = {"images": 8, "milliseconds": dict.fromkeys(stages, 1.5)}
        lines = [{"iteration": i, "total_loss": 9.0 / i, "lr": 0.1} for i in (1, 2, 3)]
        curves = {key: [(x["iteration"], x[key]) for x in lines] for key in ("total_loss", "lr")}
        report["training"] = {
            "file": "metrics.json",
            "losses": {"total_loss": curves["total_loss"]},
            "rates": {"lr": curves["lr"]},
            "precisions": {},
        }
        reports.append(json.loads(json.dumps(report)))
    (folder / "report.html").write_text(render_report(reports[0]), encoding="utf-8")
    compared = render_comparison(reports, ["before", "<b>after</b>"])
    (folder / "comparison.html").write_text(compared, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    options = Options()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    # Nothing may be wanted from a network.
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield driver
    driver.quit()


def show(browser, path, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 500})
    browser.get(path.as_uri())


def check(browser, width: int) -> None:
    """No complaint in the console, and nothing sticks out at the side."""
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def click(browser, element) -> None:
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    browser.execute_script("arguments[0].click()", element)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_clicking_through(browser, pages, name, width):
    show(browser, pages / f"{name}.html", width)
    assert browser.title
    for link in browser.find_elements(By.CSS_SELECTOR, "nav a"):
        click(browser, link)
        assert browser.find_element(By.CSS_SELECTOR, link.get_attribute("hash")).is_displayed()
    for button in browser.find_elements(By.CSS_SELECTOR, ".sortable button, summary, #theme"):
        click(browser, button)
    check(browser, width)


def test_tables_are_sorted_and_filtered(browser, pages):
    show(browser, pages / "report.html", 1280)
    table = browser.find_element(By.ID, "class-table")

    def column(number: int) -> list[str]:
        rows = "return [...arguments[0].tBodies[0].rows].filter(r => !r.hidden)"
        return browser.execute_script(f"{rows}.map(r => r.cells[{number}].textContent)", table)

    heads = table.find_elements(By.TAG_NAME, "button")
    click(browser, heads[1])
    counts = list(map(int, column(1)))
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]
    click(browser, heads[1])
    assert list(map(int, column(1))) == counts[::-1]
    click(browser, heads[3])  # AP: what has none stays below
    assert column(3)[-1] == "\N{EN DASH}" != column(3)[0]
    browser.find_element(By.CSS_SELECTOR, "#classes .filter").send_keys("SCRIPT")
    assert column(0) == [HOSTILE[0]]
    check(browser, 1280)


@pytest.fixture
def viewer(browser, pages):
    """The viewer of a report, closed, on a screen of a phone."""
    show(browser, pages / "report.html", 390)
    return browser.find_element(By.ID, "viewer")


def press(browser, key: str) -> None:
    browser.switch_to.active_element.send_keys(key)


def part(viewer, name: str):
    return viewer.find_element(By.CSS_SELECTOR, name)


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_open(browser, pages, width):
    show(browser, pages / "report.html", width)
    viewer = browser.find_element(By.ID, "viewer")
    picture = browser.find_element(By.CSS_SELECTOR, ".picture")
    # The pixels are there, not only the place for them.
    loaded = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert browser.execute_script(loaded)
    click(browser, picture)
    assert viewer.is_displayed()
    assert 200 < part(viewer, ".frame").size["width"] <= width
    click(browser, part(viewer, ".close"))
    assert not viewer.is_displayed()
    found = browser.find_element(By.CSS_SELECTOR, ".object.found")
    assert not found.is_displayed()
    click(browser, browser.find_element(By.ID, "show-objects"))
    assert found.is_displayed()
    check(browser, width)


# Rectangles on the screen, without labels that have no room.
RECTANGLES = """
return [...arguments[0].querySelectorAll(arguments[1])].filter(
  (x) => getComputedStyle(x).visibility === "visible",
).map((x) => { const r = x.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; });
"""


def overlap(a, b) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1


@pytest.mark.parametrize("width", WIDTHS)
def test_labels_of_a_picture_are_apart(browser, pages, width):
    """Neither over each other, nor outside the image, nor under a button; those without room are
    counted."""
    show(browser, pages / "report.html", width)
    viewer = browser.find_element(By.ID, "viewer")
    click(browser, browser.find_element(By.CSS_SELECTOR, ".picture"))
    seen = 0
    for _ in range(len(browser.find_elements(By.CSS_SELECTOR, ".picture"))):
        labels = browser.execute_script(RECTANGLES, viewer, "text")
        seen += len(labels)
        (frame,) = browser.execute_script(RECTANGLES, viewer, ".frame")
        buttons = browser.execute_script(RECTANGLES, viewer, "button")
        assert len(buttons) == 3
        for i, one in enumerate(labels):
            assert one[0] >= frame[0] - 1 and one[2] <= frame[2] + 1
            assert not any(overlap(one, other) for other in [*labels[:i], *buttons])
        count = len(viewer.find_elements(By.CSS_SELECTOR, "li"))
        summary = part(viewer, "summary").text
        assert summary.startswith(f"{count} box")
        assert (f"no room for {count - len(labels)} " in summary) == (count > len(labels))
        press(browser, Keys.ARROW_RIGHT)
    assert seen > 8
    check(browser, width)


def test_pictures_by_keyboard(browser, viewer):
    pictures = browser.find_elements(By.CSS_SELECTOR, ".picture")
    names = [x.find_element(By.CSS_SELECTOR, "figcaption b").text for x in pictures]
    browser.execute_script("arguments[0].focus()", pictures[0])
    press(browser, Keys.ENTER)
    assert viewer.is_displayed()
    shown = part(viewer, "#viewer-name")
    assert shown.text == names[0]
    assert f"Worst · 1 of {len(names)}" == part(viewer, ".place").text
    press(browser, Keys.ARROW_RIGHT)
    assert shown.text == names[1]
    press(browser, Keys.ARROW_LEFT)
    press(browser, Keys.ARROW_LEFT)  # from the first to the last
    assert shown.text == names[-1]
    assert part(viewer, ".place").text == f"Best · {len(names)} of {len(names)}"
    # What lies behind the viewer gets no focus.
    for _ in range(6):
        press(browser, Keys.TAB)
        behind = "return document.activeElement.closest('main, nav') !== null"
        assert not browser.execute_script(behind)
    press(browser, Keys.ESCAPE)
    assert not viewer.is_displayed()
    # And is on the picture that one has come to.
    assert browser.switch_to.active_element == pictures[-1]
    check(browser, 390)


def test_pictures_by_buttons_and_fingers(browser, viewer):
    pictures = browser.find_elements(By.CSS_SELECTOR, ".picture")
    names = [x.find_element(By.CSS_SELECTOR, "figcaption b").text for x in pictures]
    click(browser, pictures[2])
    shown = part(viewer, "#viewer-name")
    click(browser, part(viewer, ".next"))
    assert shown.text == names[3]
    click(browser, part(viewer, ".previous"))
    click(browser, part(viewer, ".previous"))
    assert shown.text == names[1]

    ((left, top, right, bottom),) = browser.execute_script(RECTANGLES, viewer, ".stage")
    x, y = (left + right) / 2, (top + bottom) / 2

    def swipe(across: float, down: float) -> None:
        steps = [("touchStart", 0.0), ("touchMove", 0.5), ("touchMove", 1.0), ("touchEnd", None)]
        for kind, share in steps:
            points = [] if share is None else [{"x": x + share * across, "y": y + share * down}]
            browser.execute_cdp_cmd(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
            )

    swipe(-120, 5)
    assert shown.text == names[2]
    swipe(120, -5)
    assert shown.text == names[1]
    swipe(60, 110)  # up and down is scrolling
    swipe(10, 0)
    assert shown.text == names[1]
    check(browser, 390)


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_what_is_cut_off_says_so(browser, pages, name):
    show(browser, pages / f"{name}.html", 390)
    boxes = browser.find_elements(By.CSS_SELECTOR, "section .scroll")
    browser.execute_script(
        "document.querySelectorAll('details').forEach((x) => { x.open = true; })"
    )
    wide = 0
    for box in boxes:
        cut = browser.execute_script(
            "return arguments[0].scrollWidth > arguments[0].clientWidth + 1", box
        )
        hint = browser.execute_script("return arguments[0].previousElementSibling", box)
        assert "hint" in hint.get_attribute("class")
        assert ("⇄" in hint.text) == cut
        assert ("more-right" in box.get_attribute("class")) == cut
        if not cut:
            continue
        wide += 1
        assert box.get_attribute("tabindex") == "0" and box.get_attribute("aria-label")
        mask = browser.execute_script("return getComputedStyle(arguments[0]).maskImage", box)
        assert "gradient" in mask
        # The names of the rows stay in sight.
        heads = box.find_elements(By.CSS_SELECTOR, "tbody th")
        browser.execute_script("arguments[0].scrollLeft = 9999", box)
        if heads:  # a picture has none
            left = browser.execute_script("return arguments[0].getBoundingClientRect().x", heads[0])
            assert 0 <= left < 40
        browser.execute_async_script(
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )
        assert "more-right" not in box.get_attribute("class")
    assert wide >= 2
    check(browser, 390)


def test_light_dark_and_paper(browser, pages):
    """As the system has it, unless somebody chooses; on paper always light, and nothing scrolls."""
    show(browser, pages / "report.html", 1280)
    script = """
    const numbers = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
    const sum = (colour) => numbers(colour).reduce((a, b) => a + b);
    const style = (name) => getComputedStyle(document.querySelector(name));
    const colours = [style(".card").backgroundColor, style("body").color];
    return [...colours.map(sum), style(".scroll").overflowX];
    """

    def look(media: str, scheme: str) -> str:
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"media": media, "features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        card, letters, overflow = browser.execute_script(script)
        assert abs(card - letters) > 450  # of 765
        return f"{'light' if card > letters else 'dark'} {overflow}"

    try:
        assert look("screen", "light") == "light auto"
        assert look("screen", "dark") == "dark auto"
        assert look("print", "dark") == "light visible"
        assert not browser.find_element(By.TAG_NAME, "nav").is_displayed()
        look("screen", "light")
        click(browser, browser.find_element(By.ID, "theme"))
        assert look("screen", "light") == "dark auto"
        assert look("print", "light") == "light visible"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    check(browser, 1280)
