"""The leaderboard in a browser, opened from disk: it sorts, filters, draws, and runs and loads nothing else."""

import csv
import json
import shutil
import time

import pytest

from madzoo.checkpoint.folder import find_bundled
from madzoo.workflows.leaderboard import leaderboard
from tests.workflows.board_rows import HOSTILE, image_row, series_row, write_results

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="apt-get install chromium chromium-driver"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += (
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=1280,1200",
    "--force-prefers-reduced-motion",
)
CARDS = ("weft_micro_patch8_32.cifar10", "weft_micro_patch8_32.cifar10-int4", "weft_micro_patch4_28.fashion_mnist")
CARDS += ("patch_s4d_nano_512_96.etth1", "patch_s4d_nano_512_96.ettm1", "season_s4d_base_1008_192.zeroshot")
MODEL = "patch_s4d_nano_512_96.etth1"
MISSING = ("", "\u2013")
LEAKY = "patch_s4d_nano_512_96.etth2"  # registered, so that its parameters are known
SECTION = {"image-classification": "images", "time-series-forecasting": "forecasting"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    leaky = {"horizon": 24, "trained_on_this_dataset": True, "testdata_leakage": True}
    rows = [series_row(name, 0.5, settings=leaky) for name in (HOSTILE, LEAKY)] + [image_row(HOSTILE, 0.5)]
    (folder / "site").mkdir()
    timed = {"milliseconds": 2.5, "fastest": 2.0, "slowest": 3.0, "rounds": 5, "threads": 1, "input_shape": [1]}
    latencies = [timed | {"model": name, "machine": "a machine", "versions": {}} for name in CARDS[1:]]
    (folder / "site" / "latency.json").write_text(json.dumps({"schema": 1, "models": latencies}))
    leaderboard(
        [write_results(folder / "results", rows), *map(find_bundled, CARDS)], out=folder / "site", bundled=False
    )
    return folder / "site"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, site):
    """The index page as it opens; one that is open already is put back."""
    if browser.current_url.partition("#")[0] != f"{site.as_uri()}/index.html":
        browser.get(f"{site.as_uri()}/index.html")
        wait(browser, lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")
        wait(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, ".plot[data-drawn]")) == 2)
        return browser
    script = (
        "for (const table of document.querySelectorAll('table')) new DataTable.Api(table).order([[1, 'asc']]).draw()"
    )
    browser.execute_script(script)
    for task in SECTION:
        choose(browser, task, benchmark="", words="", axis="params")
    return browser


@pytest.fixture
def lines(site):
    with (site / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def wait(browser, until, seconds=10.0):
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, browser.get_log("browser")
        time.sleep(0.02)


def rows(browser, task, *, column=None):
    """Returns the names of the lines shown, or the texts of a column, in order."""
    script = """
    const table = document.querySelector(`#${arguments[0]} table`);
    const heads = [...table.tHead.rows[0].cells].map((cell) => cell.innerText.trim());
    const lines = [...table.tBodies[0].rows].filter((row) => row.dataset.line);
    if (arguments[1] === null) return lines.map((row) => row.dataset.line);
    return lines.map((row) => [row.dataset.benchmark, row.cells[heads.indexOf(arguments[1])].innerText.trim()]);
    """
    return browser.execute_script(script, SECTION[task], column)


def click(browser, element):
    """Clicks where it can be seen: in the middle, not under the page's sticky head."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", element)
    element.click()


def choose(browser, task, *, benchmark=None, words=None, axis=None):
    """Sets what is not None, as a reader would, and waits for the plot where anything changed."""
    section = browser.find_element(By.ID, SECTION[task])
    plot = section.find_element(By.CSS_SELECTOR, ".plot")
    before = plot.get_attribute("data-drawn")
    script = """
    const [section, ...wanted] = arguments;
    const set = (control, field, value, event) => {
      if (value === null || control[field] === value) return false;
      control[field] = value;
      return control.dispatchEvent(new Event(event, { bubbles: true }));
    };
    const radio = section.querySelector(`input[value=${wanted[2]}]`);
    return [
      set(section.querySelector("select"), "value", wanted[0], "change"),
      set(section.querySelector("input[type=search]"), "value", wanted[1], "input"),
      radio && set(radio, "checked", true, "change"),
    ].some(Boolean);
    """
    if browser.execute_script(script, section, benchmark, words, axis) and "empty" not in plot.get_attribute("class"):
        wait(browser, lambda: plot.get_attribute("data-drawn") != before)
    return section


def dots(section):
    return section.find_elements(By.CSS_SELECTOR, ".dots_marks path")


def header(browser, task, text):
    heads = browser.find_elements(By.CSS_SELECTOR, f"#{SECTION[task]} thead th")
    return next(head for head in heads if head.text.strip().startswith(text))


def is_sorted(pairs, *, reverse):
    """Within each benchmark, numbers first and in order; what has none comes last."""
    for benchmark in dict.fromkeys(name for name, _ in pairs):
        texts = [text for name, text in pairs if name == benchmark]
        numbers = [float(text.replace(",", "")) for text in texts if text not in MISSING]
        if numbers != sorted(numbers, reverse=reverse) or texts[: len(numbers)] != [
            t for t in texts if t not in MISSING
        ]:
            return False
    return True


@pytest.mark.parametrize("task", SECTION)
def test_every_line_of_the_csv_is_a_row_of_the_table(page, lines, task):
    expected = [line for line in lines if line["task"] == task]
    assert len(rows(page, task)) == len(expected) > 4
    for benchmark in dict.fromkeys(line["benchmark"] for line in expected[::12]):
        choose(page, task, benchmark=benchmark)
        count = len([line for line in expected if line["benchmark"] == benchmark])
        assert rows(page, task) == [f"{benchmark}/{number}" for number in range(count)]


def test_a_header_sorts_by_click_and_by_the_keyboard(page):
    task, keys = "time-series-forecasting", ActionChains(page)
    first = rows(page, task)
    head = header(page, task, "Score")
    for press, reverse, said in (
        (lambda: click(page, head), False, "ascending"),
        (lambda: keys.send_keys(Keys.ENTER).perform(), True, "descending"),
        (lambda: keys.send_keys(Keys.SPACE).perform(), False, "ascending"),
    ):
        page.execute_script("arguments[0].querySelector('[role=button]').focus()", head)
        press()
        wait(page, lambda: head.get_attribute("aria-sort") == said)  # noqa: B023 - called at once
        found = rows(page, task, column="Score")
        assert is_sorted(found, reverse=reverse)
        assert list(dict.fromkeys(name for name, _ in found)) == list(
            dict.fromkeys(name.rpartition("/")[0] for name in first)
        )
    assert rows(page, task) == first
    page.execute_script("arguments[0].querySelector('[role=button]').focus()", header(page, task, "Params, M"))
    keys.send_keys(Keys.ENTER).perform()
    assert is_sorted(rows(page, task, column="Params, M"), reverse=False) and rows(page, task) != first


def test_the_tab_key_reaches_filter_and_headers_and_focus_is_visible(page):
    page.execute_script("document.querySelector('#images select').focus()")
    reached = []
    for _ in range(8):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(
            page.execute_script("const e = document.activeElement; return e.getAttribute('aria-label') || e.type")
        )
    assert reached[0] == "search" and "radio" in reached
    assert "Image classification: table" in reached and any("Model" in (name or "") for name in reached)
    assert page.execute_script("return getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_the_filter_keeps_the_baselines_of_what_it_finds(page, lines):
    task = "time-series-forecasting"
    choose(page, task, words="NANO_512_96")
    found = {line["benchmark"] for line in lines if line["kind"] == "model" and "nano_512_96" in line["name"]}
    wanted = [
        line
        for line in lines
        if line["benchmark"] in found and (line["kind"] != "model" or "nano_512_96" in line["name"])
    ]
    shown = [name for _, name in rows(page, task, column="Model")]
    assert len(shown) == len(wanted) and sum("baseline" in name for name in shown) == sum(
        line["kind"] == "baseline" for line in wanted
    )
    section = choose(page, task, words="no such model")
    assert rows(page, task) == [] and "No model matches" in section.text


@pytest.mark.parametrize(
    ("axis", "column"),
    [("params", "num_params"), ("latency", "latency_ms"), ("dimension", "local_dimension"), ("int4", "int4_cost")],
)
@pytest.mark.parametrize("task", SECTION)
def test_the_plot_has_a_point_for_every_model_with_both_values(page, lines, task, axis, column):
    def count(**wanted):
        same = [line for line in lines if line["task"] == task and all(line[k] == v for k, v in wanted.items())]
        return len([line for line in same if line["kind"] == "model" and line["value"] and line[column]])

    section = choose(page, task, axis=axis) if axis != "params" else page.find_element(By.ID, SECTION[task])
    assert len(dots(section)) == count() > 0
    benchmark = next(line["benchmark"] for line in lines if line["task"] == task)
    assert len(dots(choose(page, task, benchmark=benchmark))) == count(benchmark=benchmark) > 0


def test_hovering_names_the_model(page):
    section = choose(page, "time-series-forecasting", benchmark="ltsf-ettm1-96")
    (dot,) = dots(section)
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", dot)
    ActionChains(page).move_to_element(dot).perform()
    tip = page.find_element(By.ID, "tip")
    wait(page, tip.is_displayed)
    assert tip.text.startswith("patch_s4d_nano_512_96.ettm1") and "105,808" in tip.text


def test_a_hostile_name_is_text_and_a_leak_is_said(page):
    section = choose(page, "time-series-forecasting", benchmark="toys-24")
    assert [dot.get_attribute("fill-opacity") for dot in dots(section)] == ["0"]
    assert "Hollow: saw the tested data" in section.find_element(By.CSS_SELECTOR, ".plot-note").text
    (name,) = [name for _, name in rows(page, "time-series-forecasting", column="Model") if "img" in name]
    assert name == f"{HOSTILE} ⚠ saw the tested data trained on it"
    assert page.find_elements(By.CSS_SELECTOR, "img, [onerror]") == []
    click(page, page.find_element(By.LINK_TEXT, HOSTILE))
    assert page.find_element(By.TAG_NAME, "h1").text == HOSTILE
    assert page.find_elements(By.CSS_SELECTOR, "img") == []


def test_a_models_page_shows_its_plots_and_leads_back(page, site):
    click(page, page.find_element(By.LINK_TEXT, MODEL))
    assert page.current_url == f"{site.as_uri()}/models/{MODEL}.html"
    page.execute_script("for (const image of document.images) image.loading = 'eager'")
    wait(
        page,
        lambda: page.execute_script("return [...document.images].every((i) => i.complete && i.naturalWidth > 100)"),
    )
    assert page.execute_script("return document.images.length") == 2
    click(page, page.find_element(By.LINK_TEXT, "ETTh1, 96 steps ahead"))
    wait(page, lambda: page.execute_script("return document.documentElement.dataset.ready") == "yes")
    assert {name.rpartition("/")[0] for name in rows(page, "time-series-forecasting")} == {"ltsf-etth1-96"}


def test_both_colour_schemes_are_drawn_and_the_choice_is_kept(page):
    def colours():
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        places = (("body", "backgroundColor"), (".dots_marks path", "fill"))
        return [page.execute_script(script, *place) for place in places]

    light = colours()
    page.find_element(By.ID, "scheme").click()
    dark = colours()
    assert light[0] == "rgb(255, 255, 255)" and dark[0] == "rgb(17, 21, 26)"
    assert light[1].startswith("rgb(") and light[1] != dark[1]
    page.refresh()
    assert colours()[0] == dark[0]
    page.find_element(By.ID, "scheme").click()
    assert colours()[0] == light[0]


def test_nothing_is_fetched_and_nothing_is_logged(browser):
    """The last test: of all that the others did."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert len([url for url in sent if url.startswith("file://")]) >= 5
    own = ("chrome://", "chrome-untrusted://")  # the browser's first empty tab
    assert [url for url in sent if not url.startswith(("file://", "data:", *own))] == []
    assert browser.get_log("browser") == []
