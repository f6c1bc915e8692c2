"""The report: made of saved predictions, opened in Chromium, and its numbers compared with the predictions."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from humebatch import report
from humebatch.errors import SourceError
from humebatch.predictions import (
    BoundingBox,
    BurstPrediction,
    FacePrediction,
    GroupedPredictions,
    LanguagePrediction,
    ModelPredictions,
    ModelsPredictions,
    PositionInterval,
    Prediction,
    ProsodyPrediction,
    ResultError,
    Results,
    Score,
    Scores,
    Source,
    SourceResult,
    TimeInterval,
)
from humebatch.report.colours import look
from humebatch.vocabulary import EMOTIONS, LANGUAGE_EMOTIONS
from tests.cli.process import humebatch

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A page that nobody looks at is painted when the browser feels like it, and charts are drawn when they are seen.
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-background-timer-throttling",
    "--disable-dev-shm-usage",  # 64 MB of it in some containers
    "--window-size=1280,900",
)
HOSTILE = '</script><script>window.hacked = 1</script><img src="x" onerror="window.hacked = 2">'


def scores(names: tuple[str, ...] = EMOTIONS, **strong: float) -> Scores:
    return Scores(Score(name, strong.get(name, 0.01 + number / 10_000)) for number, name in enumerate(names))


def seen(time: float, emotions: Scores) -> FacePrediction:
    return FacePrediction(frame=0, time=time, prob=1.0, box=BoundingBox(0, 0, 9, 9), emotions=emotions)


def spoken(begin: float, end: float, text: str, emotions: Scores) -> ProsodyPrediction:
    return ProsodyPrediction(time=TimeInterval(begin, end), text=text, emotions=emotions)


def word(text: str, begin: float, emotions: Scores) -> LanguagePrediction:
    return LanguagePrediction(text, PositionInterval(0, len(text)), emotions, TimeInterval(begin, begin + 0.25))


def found(groups: dict[str, list[Any]]) -> ModelPredictions[Any]:
    return ModelPredictions([GroupedPredictions(name, rows) for name, rows in groups.items()])


def file(name: str, kind: str | None = "video", /, **models: dict[str, list[Any]]) -> Prediction:
    return Prediction(name, ModelsPredictions(**{model: found(groups) for model, groups in models.items()}), kind)


def source(*files: Prediction, name: str, errors: list[ResultError] | None = None) -> SourceResult:
    return SourceResult(Source(type="file", filename=name), Results(list(files), errors or []))


def interview() -> list[SourceResult]:
    """Two faces over ten seconds, one of them away for a while, two speakers, a laugh, errors, pictures, a text."""
    first = [seen(number / 4, scores(Joy=number / 40, Calmness=0.75)) for number in range(40)]
    second = [seen(number / 4, scores(Sadness=0.5)) for number in range(40) if not 10 < number < 20]
    prosody = {
        "spk_0": [
            spoken(0.5, 2.0, "Do you remember the lake?", scores(Interest=0.75)),
            spoken(5.0, 6.0, "So do I.", scores(Interest=0.25, Nostalgia=0.5)),
        ],
        "spk_1": [spoken(2.5, 4.5, "I do, every day.", scores(Nostalgia=1.0))],
    }
    laugh = BurstPrediction(TimeInterval(6.5, 7.0), scores(Amusement=0.9), Scores([Score("Laugh", 0.9)]))
    video = file("interview.mp4", face={"face_0": first, "face_1": second}, prosody=prosody, burst={"unknown": [laugh]})
    faces = [file(f"faces/{number}.jpg", "image", face={"unknown": [seen(0, scores(Joy=0.5))]}) for number in range(2)]
    sentences = [
        LanguagePrediction("I miss you.", PositionInterval(0, 11), scores(LANGUAGE_EMOTIONS, Sadness=0.75)),
        LanguagePrediction("Thank you!", PositionInterval(12, 22), scores(LANGUAGE_EMOTIONS, Gratitude=1.25)),
    ]
    text = file("1", "text", language={"unknown": sentences})
    return [
        source(video, name="interview.mp4", errors=[ResultError("nobody sang", "interview.mp4", "ner")]),
        source(*faces, name="faces.zip", errors=[ResultError("no face was found", "faces/9.jpg")]),
        SourceResult(Source(type="text"), Results([text], [])),
        SourceResult(Source(type="url", url="https://host.example/gone.mp4"), error="could not be fetched"),
    ]


def saved(path: Path, results: list[SourceResult]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.encode(results)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    # The page says when its input was written.
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


class Page(HTMLParser):
    """The tables of a page, as lists of rows of cells, with the class of each; and the text of all the rest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.text = ""
        self._silent = self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style"):
            self._silent = True
        elif tag == "table":
            self.tables.append((dict(attrs).get("class") or "", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("th", "td"):
            self._inside = True
            self.tables[-1][1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._silent = False
        elif tag in ("th", "td"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        self.text += data
        if self._inside:
            self.tables[-1][1][-1][-1] += data

    def named(self, name: str) -> list[list[list[str]]]:
        return [rows for kind, rows in self.tables if kind == name]


def made(tmp_path: Path, results: list[SourceResult]) -> Page:
    return Page(report.page([saved(tmp_path / "predictions.json", results)]).html)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver) and not os.environ.get("CI"):
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    assert chromium
    assert driver, "CI has a browser (.ci/run installs it)"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


def show(browser: webdriver.Chrome, path: Path, *, width: int = 1280) -> None:
    browser.get("about:blank")
    for log in ("browser", "performance"):
        logged(browser, log)  # what was before is not this page's
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())


def logged(browser: webdriver.Chrome, log: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = browser.get_log(log)  # type: ignore[no-untyped-call]
    return entries


def drawn(browser: webdriver.Chrome, number: int) -> list[dict[str, Any]]:
    """Scroll to a chart, wait until it is drawn, and read its lines from the charting library."""
    browser.set_script_timeout(30)
    lines = browser.execute_async_script(
        """
        const [number, done] = arguments;
        const plot = document.querySelectorAll(".plot")[number];
        (function look() {
          // Again and again: charts further up may be drawn meanwhile, and move it.
          plot.scrollIntoView();
          if (!plot.data || !plot.querySelector(".scatterlayer path")) return setTimeout(look, 20);
          done(plot.data.map(({ name, x, y, line }) => ({ name, x, y, ...line })));
        })();
        """,
        number,
    )
    assert isinstance(lines, list)
    return lines


def clean(browser: webdriver.Chrome) -> None:
    """Nothing was asked of any network, and the console is empty."""
    asked = [json.loads(entry["message"])["message"] for entry in logged(browser, "performance")]
    urls = [one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"]
    assert urls, "the page itself"
    assert not [url for url in urls if not url.startswith(("file:", "data:", "blob:", "about:"))]
    assert logged(browser, "browser") == []


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    saved(folder / "results" / "interview.mp4" / "predictions.json", interview())
    done = humebatch("report", "results", "--out", "report.html", cwd=folder)
    assert (done.code, done.out) == (0, "report.html\n"), done.err
    return folder / "report.html"


def test_charts_show_the_numbers_of_the_predictions(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)
    titles = browser.execute_script(
        "return [...document.querySelectorAll('figure')].map((one) => one.closest('section').ariaLabel)"
    )
    assert titles == [
        "Faces, All together, interview.mp4",
        "Faces, face_0, interview.mp4",
        "Faces, face_1, interview.mp4",
        "Speech prosody, All together, interview.mp4",
        "Speech prosody, spk_0, interview.mp4",
        "Language, Not told apart, text 1",
    ]
    lines = {line["name"]: line for line in drawn(browser, 1)}
    assert len(lines) == 6
    assert list(lines)[:2] == ["Calmness", "Joy"]
    assert lines["Joy"]["y"] == [pytest.approx(number / 40, abs=0.0005) for number in range(40)]
    assert [(one - lines["Joy"]["x"][0]) / 1000 for one in lines["Joy"]["x"]] == [number / 4 for number in range(40)]
    together = {line["name"]: line for line in drawn(browser, 0)}
    # The mean of both faces, and of one while the other is away.
    assert together["Sadness"]["y"][:12] == [pytest.approx((0.5 + 0.014) / 2, abs=0.001)] * 11 + [
        pytest.approx(0.014, abs=0.001)
    ]
    away = {line["name"]: line for line in drawn(browser, 2)}
    assert away["Sadness"]["y"].count(None) == 1, "the line breaks while the face is away"
    speaker = {line["name"]: line for line in drawn(browser, 4)}
    assert speaker["Interest"]["y"] == [0.75, 0.75, None, 0.25, 0.25]
    text = {line["name"]: line for line in drawn(browser, 5)}
    assert text["Gratitude"]["x"] == [0, 11, 12, 22]
    assert text["Gratitude"]["y"][2:] == [1.25, 1.25]
    clean(browser)


def test_every_chart_has_a_table_with_the_same_numbers(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)
    tables = browser.execute_script(
        """
        return [...document.querySelectorAll("figure")].map((figure) => {
          figure.querySelector("details").open = true;
          return [...figure.querySelector("table").rows].map((row) => [...row.cells].map((cell) => cell.innerText));
        });
        """
    )
    for number, table in enumerate(tables):
        for column, line in enumerate(drawn(browser, number), 1):
            assert table[0][column] == line["name"]
            numbers = [float(row[column]) for row in table[1:]]
            shown = [value for value in line["y"] if value is not None]
            assert set(shown) == set(numbers)
            assert len(shown) in (len(numbers), 2 * len(numbers)), "a moment, or a stretch with two ends"
    clean(browser)


def test_an_emotion_has_one_colour_in_all_charts(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)
    light = [(line["name"], line["color"], line["dash"]) for number in range(6) for line in drawn(browser, number)]
    assert len({name for name, *_ in light}) == len(set(light)) > 6
    try:
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        show(browser, page)
        for name, colour, _ in {(line["name"], line["color"], line["dash"]) for line in drawn(browser, 1)}:
            assert colour == look(name).dark
            assert (name, look(name).light) in {one[:2] for one in light}
        back = "return getComputedStyle(document.body).backgroundColor"
        assert max(map(int, browser.execute_script(back)[4:-1].split(","))) < 64
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    clean(browser)


@pytest.mark.parametrize("width", [320, 390, 641, 768, 961])
def test_no_screen_scrolls_sideways(browser: webdriver.Chrome, page: Path, width: int) -> None:
    show(browser, page, width=width)
    for number in range(6):
        drawn(browser, number)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    clean(browser)


def test_without_scripts_all_is_there_to_read(browser: webdriver.Chrome, page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, page)
        for summary in browser.find_elements("css selector", "summary"):
            summary.click()
        text = browser.find_element("css selector", "body").text
        assert not any(one.is_displayed() for one in browser.find_elements("css selector", ".plot"))
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "0:09.7" in text or "0:09.8" in text
    assert "0.975" in text
    assert "Do you remember the lake?" in text


def test_transcript_errors_and_head(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)

    def rows(selector: str) -> list[list[str]]:
        script = "return [...document.querySelectorAll(arguments[0])].map((r) => [...r.cells].map((c) => c.innerText))"
        found = browser.execute_script(script, selector)
        assert isinstance(found, list)
        return [[" ".join(cell.split()) for cell in row] for row in found]

    assert rows(".transcript tbody tr") == [
        ["0:00–0:02", "spk_0", "Do you remember the lake?", "Interest 0.75"],
        ["0:02–0:04", "spk_1", "I do, every day.", "Nostalgia 1.00"],
        ["0:05–0:06", "spk_0", "So do I.", "Nostalgia 0.50"],
        ["I miss you.", "Sadness 0.75"],
        ["Thank you!", "Gratitude 1.25"],
    ]
    assert rows(".problems tbody tr") == [
        ["interview.mp4", "ner", "nobody sang"],
        ["faces/9.jpg in faces.zip", "all", "no face was found"],
        ["https://host.example/gone.mp4", "the whole source", "could not be fetched"],
    ]
    assert rows(".given tbody tr") == [
        ["results/interview.mp4/predictions.json", "2023-11-14 22:13:20", rows(".given tbody tr")[0][2], "4", "4"]
    ]
    head = browser.find_element("css selector", "header").text
    assert "Expressions in 4 files" in head
    assert "written 2023-11-14 22:13 UTC" in head
    assert "It does not say what anybody feels." in head
    laugh = browser.find_element("css selector", "[aria-label^='Vocal bursts']").text
    assert "heard for 0.5 s" in laugh
    assert "seen for 10 s" in browser.find_element("css selector", "[aria-label^='Faces, face_0']").text
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    clean(browser)


def test_what_predictions_say_is_text(browser: webdriver.Chrome, tmp_path: Path) -> None:
    emotions = Scores([Score(f"Joy{HOSTILE}", 1.0), Score("<b>Bold</b>", 0.5), Score("\u202eJoy", 0.4)])
    groups: dict[str, list[Any]] = {
        f"spk_0{HOSTILE}": [spoken(0, 1, f"Hello {HOSTILE}", emotions), spoken(1, 2, "{{ 7 * 7 }}", emotions)],
        '"><script>window.hacked=3</script>': [spoken(2, 3, "&lt;b&gt;", emotions)],
    }
    bad = source(
        file(HOSTILE, HOSTILE, prosody=groups),
        name=f"javascript:{HOSTILE}",
        errors=[ResultError(HOSTILE, HOSTILE, HOSTILE)],
    )
    gone = SourceResult(Source(type="url", url="javascript:window.hacked=4"), error=f"{HOSTILE}\n\0")
    folder = tmp_path / "<script>window.hacked=5<"
    folder.mkdir()
    path = saved(folder / "predictions.json", [bad, gone])
    made = tmp_path / "report.html"
    made.write_text(report.page([path]).html)
    show(browser, made)
    lines = drawn(browser, 0)
    browser.execute_script(
        "const box = document.querySelector('.plot .nsewdrag').getBoundingClientRect();"
        "const at = { clientX: box.x + 9, clientY: box.y + 9, bubbles: true };"
        "document.querySelector('.plot .nsewdrag').dispatchEvent(new MouseEvent('mousemove', at))"
    )
    assert lines[1]["name"] == "&lt;b>Bold&lt;/b>"
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.scripts.length") == 2
    assert browser.execute_script("return document.querySelectorAll('main img, main b').length") == 0
    text = browser.find_element("css selector", "body").text
    assert f"Hello {HOSTILE}" in text
    assert "{{ 7 * 7 }}" in text
    assert "&lt;b&gt;" in text
    assert "<b>Bold</b>" in text
    assert not [
        link for link in browser.find_elements("css selector", "a") if "#" not in (link.get_attribute("href") or "")
    ]
    clean(browser)


def test_no_script_runs_that_is_not_the_pages_own(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Should escaping fail some day, the Content-Security-Policy is what is left."""
    html = report.page([saved(tmp_path / "predictions.json", interview())]).html
    cracked = tmp_path / "report.html"
    cracked.write_text(html.replace("<main>", f"<main>{HOSTILE}<img src='https://host.example/x.png'>"))
    show(browser, cracked)
    drawn(browser, 0)
    assert browser.execute_script("return window.hacked") is None
    assert len(logged(browser, "browser")) >= 2, "the browser says what it refused"
    sent = [entry["message"] for entry in logged(browser, "performance")]
    assert not [one for one in sent if "responseReceived" in one and "host.example" in one]


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**4), st.floats(0, 1)), min_size=2, max_size=600, unique=True
    ),
    stretches=st.booleans(),
)
def test_charts_are_bounded_and_means_are_between(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, float]], stretches: bool
) -> None:
    rows = rows * (1 + 300 // len(rows)) if len(rows) > 100 else rows
    model: dict[str, dict[str, list[Any]]] = (
        {"prosody": {"spk_0": [spoken(at / 7, (at + long) / 7, "", scores(Joy=joy)) for at, long, joy in rows]}}
        if stretches
        else {"face": {"face_0": [seen(at / 7, scores(Joy=joy)) for at, _, joy in rows]}}
    )
    page = made(tmp_path_factory.mktemp("bounded"), [source(file("a.mp4", **model), name="a.mp4")])
    tables = page.named("points")
    if not tables:
        assert len({at for at, *_ in rows}) == 1
        return
    ((head, *points),) = tables
    assert 0 < len(points) <= 240
    assert ("mean of each" in page.text) == (len(rows) > 240)
    if "Joy" in head:
        values = [float(row[head.index("Joy")]) for row in points]
        joys = [joy for *_, joy in rows]
        assert min(joys) - 0.001 <= min(values)
        assert max(values) <= max(joys) + 0.001


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(520)]
    pictures = [file(name, "image", face={"unknown": [seen(0, scores(Joy=0.5))]}) for name in names]
    errors = [ResultError("no", f"{number}.png") for number in range(310)]
    crowd = {f"face_{number}": [seen(at, scores()) for at in range(2 + number % 2)] for number in range(30)}
    page = made(
        tmp_path,
        [
            source(file("crowd.mp4", face=crowd), name="crowd.mp4"),
            source(*pictures, name="many.zip", errors=errors),
        ],
    )
    text = " ".join(page.text.split())
    assert "21 more files not listed." in text
    assert "Only the first 200 files have a section below; 321 files have none." in text
    assert "10 more problems not listed." in text
    assert "23 more ids have fewer predictions and are not shown." in text
    shown = [row[0] for rows in page.named("overview") for row in rows[1:]]
    assert len(shown) == 500
    assert len(page.named("points")) == 8, "all together, and seven faces"


def test_long_runs_make_a_page_that_a_browser_can_open(tmp_path: Path) -> None:
    talks = []
    for number in range(40):
        words = {
            f"spk_{who}": [word("word", at / 2 + who, scores(LANGUAGE_EMOTIONS, Joy=0.5)) for at in range(250)]
            for who in range(3)
        }
        talks.append(source(file(f"{number}.wav", "audio", language=words), name=f"{number}.wav"))
    page = report.page([saved(tmp_path / "predictions.json.gz", talks)])
    assert len(page.html) < 12_000_000
    assert "Only 100 charts are drawn; 60 more groups are shown without one." in " ".join(Page(page.html).text.split())


def test_single_words_become_lines(tmp_path: Path) -> None:
    said = ["We", "met", "in", "Rome.", "It", "rained", "a", "lot", "and"]
    words = [word(text, number / 2, scores(LANGUAGE_EMOTIONS, Joy=number / 10)) for number, text in enumerate(said)]
    words.append(word("then", 30.0, scores(LANGUAGE_EMOTIONS, Relief=0.5)))
    page = made(tmp_path, [source(file("a.wav", "audio", language={"spk_0": words}), name="a.wav")])
    ((_, *lines),) = page.named("transcript")
    assert [(line[0], line[2], " ".join(line[3].split())) for line in lines] == [
        ("0:00–0:02", "We met in Rome.", "Joy 0.15"),
        ("0:02–0:04", "It rained a lot and", "Joy 0.60"),
        ("0:30–0:30", "then", "Relief 0.50"),
    ]


def test_the_page_is_the_same_for_the_same_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "predictions.json", interview())
    assert report.page([path]).html == report.page([path]).html


@pytest.mark.parametrize("value", [1e308, -1e308, 1e-320, 12345678.0])
def test_numbers_beyond_all_measure_are_shown(tmp_path: Path, value: float) -> None:
    rows = [seen(at, scores(Joy=value)) for at in (0.0, 1.0, 2.0, abs(value))]
    speech = [spoken(-abs(value), abs(value), "all the time", scores(Joy=value)), spoken(1, 2, "now", scores())]
    page = made(tmp_path, [source(file("a.mp4", face={"f": rows}, prosody={"s": speech}), name="a.mp4")])
    assert page.named("strongest")


def test_every_emotion_has_a_look_of_its_own() -> None:
    assert len({look(name) for name in LANGUAGE_EMOTIONS}) == 53
    assert len({(look(name).light, look(name).dash) for name in LANGUAGE_EMOTIONS}) == 53
    assert look("Serenity") == look("Serenity")


def test_find_searches_folders(tmp_path: Path) -> None:
    inside = saved(tmp_path / "out" / "b.wav" / "predictions.json", interview())
    zipped = saved(tmp_path / "out" / "a.wav" / "predictions.json.gz", interview())
    saved(tmp_path / "out" / ".humebatch-x" / "predictions.json", interview())
    (tmp_path / "out" / "b.wav" / "other.json").write_text("[]")
    named = saved(tmp_path / "old.json", interview())
    assert report.find([tmp_path / "out", named, inside]) == [zipped, inside, named]
    with pytest.raises(SourceError, match="nowhere: no such file or folder"):
        report.find([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no predictions\.json in this folder"):
        report.find([tmp_path / "empty"])


def test_a_broken_file_does_not_spoil_the_others(tmp_path: Path) -> None:
    saved(tmp_path / "in" / "a" / "predictions.json", interview())
    cut = tmp_path / "in" / "b" / "predictions.json"
    cut.parent.mkdir()
    cut.write_bytes(msgspec.json.encode(interview())[:5000])
    done = humebatch("report", "in", "--out", "r.html", cwd=tmp_path)
    assert (done.code, done.out) == (1, "r.html\n")
    assert "in/b/predictions.json: not read to its end: " in done.err
    assert "not read to its end: " in (tmp_path / "r.html").read_text()
    with pytest.raises(SourceError, match=r"in/b/predictions\.json: "):
        report.page([cut])
    done = humebatch("report", "in/b", "--out", "none.html", cwd=tmp_path)
    assert done.code == 1
    assert not (tmp_path / "none.html").exists()


def test_damaged_and_missing_files_do_not_spoil_the_others_either(tmp_path: Path) -> None:
    saved(tmp_path / "good.json", interview())
    damaged = saved(tmp_path / "damaged.json.gz", interview())
    damaged.write_bytes(damaged.read_bytes()[:-20])
    (tmp_path / "empty").mkdir()
    given_ = ("damaged.json.gz", "good.json", "gone.json", "empty")
    done = humebatch("report", *given_, "--json", "--out", "r.html", cwd=tmp_path)
    assert done.code == 1
    said = json.loads(done.out)
    assert said["path"] == "r.html"
    assert [one["path"] for one in said["broken"]] == ["damaged.json.gz", "gone.json", "empty"]
    assert said["broken"][1]["error"] == "no such file or folder"
    text = " ".join(Page((tmp_path / "r.html").read_text()).text.split())
    for one in said["broken"]:
        assert sum(line.startswith(f"{one['path']}: not read") for line in done.err.splitlines()) == 1
        assert one["error"] in text
    assert humebatch("report", "good.json", "--json", cwd=tmp_path).out == '{"path":"report.html","broken":[]}\n'


def test_when_nothing_can_be_read_all_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text("[{")
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b"[]")[:-4])
    done = humebatch("report", "cut.json", "cut.json.gz", "gone.json", cwd=tmp_path)
    assert (done.code, done.out) == (1, "")
    for path, line in zip(("cut.json", "cut.json.gz", "gone.json"), done.err.splitlines(), strict=True):
        assert line.startswith(f"{path}: ")
    done = humebatch("report", "gone.json", "lost.json", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == "gone.json: no such file or folder\nlost.json: no such file or folder\n"
    assert not (tmp_path / "report.html").exists()


def test_a_name_that_comes_twice_counts_once(tmp_path: Path) -> None:
    twice = Scores([Score("Joy", 0.9), Score("Joy", 0.5)])
    page = made(tmp_path, [source(file("a.mp4", face={"f": [seen(0.0, twice), seen(1.0, twice)]}), name="a.mp4")])
    assert "0.50" in page.text
    assert "0.70" not in page.text
    assert "0.90" not in page.text


def test_scripts_without_spaces_are_read_without_spaces(tmp_path: Path) -> None:
    def rows(text: str, gap: int = 0) -> list[LanguagePrediction]:
        return [
            LanguagePrediction(one, PositionInterval(at * (1 + gap), at * (1 + gap) + 1), scores(LANGUAGE_EMOTIONS))
            for at, one in enumerate(text)
        ]

    heard = [spoken(number / 4, number / 4 + 0.25, one, scores()) for number, one in enumerate("สวัสดี")]
    files = [
        file("a.txt", "text", language={"x": rows("今日は、いい天気です")}),
        file("b.txt", "text", language={"x": rows("abc")}),
        file("c.txt", "text", language={"x": rows("xyz", 1)}),
        file("d.wav", "audio", prosody={"x": heard}),
    ]
    page = made(tmp_path, [source(*files, name="a.zip")])
    said = [line[-2] for _, *lines in page.named("transcript") for line in lines]
    assert said == ["今日は、いい天気です", "abc", "x y z", "สวัสดี"]


def test_the_command_refuses_before_it_writes(tmp_path: Path) -> None:
    path = saved(tmp_path / "predictions.json", interview())
    before = path.read_bytes()
    (tmp_path / "r.html").write_text("the page of before")
    for arguments, why in (
        (("gone.json",), "gone.json: no such file or folder"),
        (("predictions.json", "--out", "./predictions.json"), "is a file to read"),
        ((".", "--out", "."), "is a folder"),
        (("predictions.json", "--out", "no/where.html"), "cannot write"),
    ):
        done = humebatch("report", *arguments, cwd=tmp_path)
        assert (done.code, done.out) == (2, ""), arguments
        assert why in done.err
    assert path.read_bytes() == before
    assert not (tmp_path / "report.html").exists()
    done = humebatch("report", "predictions.json", "--out", "r.html", cwd=tmp_path)
    assert done.code == 0
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert not list(tmp_path.glob(".humebatch-*"))
