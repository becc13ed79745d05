import base64
import hashlib
import itertools
import re
import shutil
from html.parser import HTMLParser

import pytest

from tests.support.report_workspace import (
    DETECTIONS,
    add_analysis,
    add_video,
    entry,
    make_workspace,
)
from wtours.errors import UsageError
from wtours.report.build import build_report
from wtours.report.data import load_videos
from wtours.report.figure2 import decades, figure_files, rank_ticks
from wtours.report.page import cuts_bar
from wtours.report.page_video import source_at
from wtours.text import clock, plain
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

VOID = {"meta", "link", "img", "input", "br", "hr", "wbr"}
HOSTILE = '</title><script>alert(1)</script><img src=x onerror="alert(2)">'


class Page(HTMLParser):
    """Every element with its attributes, and the text by element name; refuses unbalanced tags."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], {}
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    layout, entries = make_workspace(tmp_path_factory.mktemp("workspace"))
    return layout, entries, build_report(layout, entries)


@pytest.fixture(scope="module")
def page(report):
    return Page(report[2].page.read_text())


def test_the_report_names_what_is_missing_and_is_made_all_the_same(report):
    _, _, result = report
    assert result.not_downloaded == ("gamma",)
    assert result.not_analyzed == ("gamma",)
    assert result.without_objects == ("beta",)
    assert result.problems == {}
    assert all(path.stat().st_size > 0 for path in result.paths)
    assert {path.name for path in result.page.parent.iterdir()} == {
        "report.html",
        *(f"table6.{kind}" for kind in ("md", "csv", "json")),
        *(f"figure2.{kind}" for kind in ("png", "svg", "pdf")),
    }


def test_the_heading_counts_what_was_measured_and_a_command_is_code(page):
    assert page.text["h1"] == "2 of 3 videos, measured"
    assert page.text["code"] == "wtours download --video gamma"


@pytest.mark.medium
def test_the_same_inputs_give_the_same_bytes_anywhere(report, tmp_path):
    layout, entries, result = report
    shutil.copytree(layout.root, tmp_path / "elsewhere")
    again = build_report(Layout(tmp_path / "elsewhere"), entries)
    for first, second in zip(result.paths, again.paths, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_the_page_asks_for_nothing_outside_itself(page):
    pictures = [a["src"] for a in page.all("img")]
    assert pictures
    assert all(url.startswith("data:image/webp;") for url in pictures)
    assert [a["href"] for a in page.all("link")] == ["data:,"]
    names = {name for name, _ in page.elements}
    assert not names & {"iframe", "object", "embed", "form", "base", "video", "audio", "image"}
    assert all(a["href"].startswith("#") for a in page.all("use"))
    assert not [a for a in page.all("script") if "src" in a]
    assert "url(" not in page.text["style"]
    assert "@import" not in page.text["style"]


def test_the_content_policy_allows_the_pages_own_style_script_and_data_pictures_only(report, page):
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    script = re.findall(r"<script>(.*?)</script>", report[2].page.read_text(), re.DOTALL)
    style, code = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (page.text["style"], *script)
    )
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; "
        f"script-src 'sha256-{code}'; base-uri 'none'; form-action 'none'"
    )
    assert not [attrs for _, attrs in page.elements if "style" in attrs]


def test_one_can_find_the_way_without_a_mouse_or_eyes(page):
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    anchors = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    assert anchors[0] == "#table6"  # the skip link comes first
    assert {a[1:] for a in anchors} <= set(ids)
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a["alt"] for a in page.all("img"))
    levels = [int(name[1]) for name, _ in page.elements if name in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.all("html") == [{"lang": "en"}]


def test_the_pictures_are_spaced_ones_those_of_the_cut_the_extremes_and_the_shots(page):
    # alpha's detector looked at 4 frames, so there are 4 spaced ones; beta's 24 are any frames.
    # Both: two at the cut, the lightest and the darkest second, and the middle of two shots.
    assert len(page.all("img")) == (4 + 2 + 2 + 2) + (24 + 2 + 2 + 2)
    alts = [a["alt"] for a in page.all("img")]
    assert alts[:10] == [
        "frame at 0:00:00.0, 2 detections",
        "frame at 0:00:01.0, 0 detections",
        "frame at 0:00:02.0, 1 detection",
        "frame at 0:00:03.0, 1 detection",
        "frame at 0:00:01.9",
        "frame at 0:00:02.0, 1 detection",
        "frame at 0:00:02.0, 1 detection",
        "frame at 0:00:00.0, 2 detections",
        "frame at 0:00:01.0",
        "frame at 0:00:03.0",
    ]


def test_a_class_has_one_color_on_the_whole_page(report):
    html = report[2].page.read_text()
    of_label: dict[str, set[str]] = {}
    for key, label in re.findall(r'<path class="(k[0-9x]+)" data-label="([^"]+)"', html):
        of_label.setdefault(label, set()).add(key)
    for key, label in re.findall(r'<tr class="(k[0-9x]+)"><th scope="row"><i .*?></i>(\w+)', html):
        of_label.setdefault(label, set()).add(key)
    for key, label in re.findall(r'<button [^>]*class="(k[0-9]+)".*?</i>(\w+)</button>', html):
        of_label.setdefault(label, set()).add(key)
    assert of_label == {"person": {"k0"}, "car": {"k1"}}


def test_a_moment_at_the_source_is_addressed_where_the_source_can_do_that(tmp_path):
    layout = Layout(tmp_path)
    for video_id, source in (
        ("alpha", "https://www.youtube.com/watch?v=abc&t=7"),
        ("beta", "https://example.org/walk.mp4"),
        ("gamma", "https://example.org/page"),
    ):
        add_video(layout, video_id, source=source)
    alpha, beta, gamma = load_videos(
        layout, [entry(video_id) for video_id in ("alpha", "beta", "gamma")], threshold=0.3
    )
    assert source_at(alpha, 61_900_000) == "https://www.youtube.com/watch?v=abc&t=61"
    assert source_at(beta, 1_500_000) == "https://example.org/walk.mp4#t=1.5"
    assert source_at(gamma, 1_500_000) is None
    assert source_at(gamma, None) == "https://example.org/page"


def test_what_was_not_measured_says_so_in_the_figure(report):
    drawn = report[2].page.with_name("figure2.svg").read_text()
    titles = re.findall(r"<!-- \(([a-d])\) (.*?) -->", drawn)
    assert "".join(letter for letter, _ in titles) == "abcd"
    assert drawn.count("<!-- not measured -->") == 2 + 4  # two of three videos have no objects


def test_what_was_not_measured_says_so_on_the_page(page):
    assert "No pictures: gamma is not downloaded." in page.text["p"]
    assert "not measured: no detector was asked for" in page.text["dd"]
    assert page.text["span"].count("not measured") >= 5 + 2


def test_videos_without_objects_that_no_paper_knows_have_no_empty_panels(tmp_path):
    layout = Layout(tmp_path)
    add_video(layout, "alpha")
    add_analysis(layout, "alpha", detections=None)
    report = build_report(layout, [entry("alpha")])
    html, drawn = (file.read_text() for file in (report.page, report.page.with_name("figure2.svg")))
    body = html[html.index("<main>") : html.index("</main>")]
    assert "(b) Cuts" in body
    # The SVG's letters are curves, each text with itself as a comment.
    assert re.findall(r"<!-- (\([a-d]\) .*?) -->", drawn) == [
        "(a) Lightness, CIELAB L*",
        "(b) Cuts",
    ]
    assert "not measured" not in drawn
    for panel in ("Objects per frame", "Objects/frame", "Frequency of classes", "Classes from"):
        assert panel not in body
    assert "Length, lightness and cuts of each video" in html


def test_a_cut_detector_that_only_some_videos_had_is_not_measured_for_the_others(report):
    html = report[2].page.read_text()
    settings = html[html.index('<section id="settings">') :]
    assert settings.index(">adaptive<") < settings.index(">transnetv2<")
    alpha, beta = (settings[settings.index(name) :].split("</tr>")[0] for name in ("Alpha", "Beta"))
    assert '<td class="number">7</td>' in alpha
    assert '<td class="number"><span class="missing">not measured</span></td>' in beta


@pytest.mark.medium
def test_text_from_strangers_stays_text(tmp_path):
    layout = Layout(tmp_path)
    evil = f"{HOSTILE}\x1b[31m\u202e\ud800"
    safe = plain(evil)
    add_video(
        layout,
        "alpha",
        source="javascript:alert(3)",
        title=evil.replace("\ud800", ""),
        license_observed=HOSTILE,
    )
    labels = [(frame, f"{label}{HOSTILE}\x00", score) for frame, label, score in DETECTIONS]
    add_analysis(layout, "alpha", detections=labels)
    entries = [entry("alpha", title=HOSTILE, domain=HOSTILE, license_claimed=HOSTILE)]
    html = build_report(layout, entries, threshold=0.05).page.read_text()
    page = Page(html)
    assert [a.get("type") for a in page.all("script")] == ["application/json", None]
    assert "alert" not in "".join(re.findall(r"<script>(.*?)</script>", html, re.DOTALL))
    assert not [a for _, a in page.elements for name in a if name.startswith("on")]
    assert {a["href"].split(":")[0] for a in page.all("a") if not a["href"].startswith("#")} == (
        set()
    )
    assert HOSTILE in page.text["p"]  # the title
    assert f"person{HOSTILE}" in page.text["th"]
    assert f"person{HOSTILE}" in {a["data-label"] for a in page.all("path") if "data-label" in a}
    assert safe == HOSTILE
    assert safe in page.text["dd"]
    assert not {c for c in html if c < " " and c != "\n"}


@pytest.mark.medium
def test_a_title_with_formulas_and_many_videos_draws(tmp_path):
    entries = [entry(f"v{number}", title=f"$x^{number}$ \\frac") for number in range(12)]
    files = figure_files(load_videos(Layout(tmp_path), entries, threshold=0.3))
    assert files["png"].startswith(b"\x89PNG")


def test_the_ticks_of_frequencies_are_powers_of_ten_and_the_last_rank():
    assert rank_ticks(1) == [1]
    assert rank_ticks(8) == [1, 8]
    assert rank_ticks(350) == [1, 10, 100, 350]
    assert rank_ticks(1_203) == [1, 10, 100, 1_203]  # 1,000 would touch it
    assert decades(0.0028, 3.7) == [1, 0.1, 0.01]
    assert decades(0.07, 9.2) == [10, 1, 0.1]
    assert len(decades(1e-5, 300)) <= 4


def test_a_single_cut_beside_many_has_a_bar_that_can_be_seen():
    assert [cuts_bar(cuts, 200) for cuts in (0, 1, 100, 200)] == [0, 4, 50, 100]


def test_the_page_of_videos_of_ones_own_has_no_word_of_the_paper_and_no_row_without_a_value(
    tmp_path,
):
    layout = Layout(tmp_path)
    add_video(layout, "alpha", source="file:alpha.mp4")
    add_analysis(layout, "alpha", detections=DETECTIONS)
    html = build_report(layout, [entry("alpha", license_claimed="CC0")]).page.read_text()
    page = Page(html)
    assert "paper" not in re.sub(r"<(style|script).*?</\1>", "", html, flags=re.DOTALL).replace(
        'class="paper"', ""
    )
    for word in ("Table 6", "Figure 2", "x1000", "not recorded", "not observed"):
        assert word not in html, word
    assert "<dt>License</dt><dd>CC0</dd>" in html
    assert "<dt>At most per frame</dt><dd>no cap</dd>" in html
    assert "40 frames, 10 frames/s" in page.text["span"]
    assert "<dt>seconds</dt><dd>4</dd>" in html
    assert "<dt>cut</dt><dd>1</dd>" in html


def test_a_damaged_video_costs_its_pictures_only(report, tmp_path):
    layout, entries, _ = report
    shutil.copytree(layout.root, tmp_path / "copy")
    clip = tmp_path / "copy/videos/alpha/alpha.mp4"
    clip.write_bytes(b"\0" * clip.stat().st_size)
    result = build_report(Layout(tmp_path / "copy"), entries[:1])
    assert "cannot be opened as video" in result.problems["alpha"]
    assert "cannot be opened as video" in Page(result.page.read_text()).text["p"]


@pytest.mark.parametrize("threshold", [0, 1.01, float("nan")])
def test_a_threshold_that_no_score_can_have_is_refused(tmp_path, threshold):
    with pytest.raises(UsageError, match="--threshold must be above 0"):
        build_report(Layout(tmp_path), [entry("alpha")], threshold=threshold)
    assert list(tmp_path.iterdir()) == []


def test_clock_rounds_to_tenths_and_carries():
    assert clock(0) == "0:00:00.0"
    assert clock(3_599_960_000) == "1:00:00.0"
    assert clock(69_500_000) == "0:01:09.5"
