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

from yolor_d2.evaluation.report import build_report, to_json
from yolor_d2.evaluation.report_page import render_comparison, render_report

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
    frame = viewer.find_element(By.CSS_SELECTOR, ".frame")
    assert 200 < frame.size["width"] <= width
    assert viewer.find_elements(By.TAG_NAME, "text")[0].is_displayed()
    click(browser, viewer.find_element(By.TAG_NAME, "button"))
    assert not viewer.is_displayed()
    found = browser.find_element(By.CSS_SELECTOR, ".object.found")
    assert not found.is_displayed()
    click(browser, browser.find_element(By.ID, "show-objects"))
    assert found.is_displayed()
    check(browser, width)
