from dataclasses import replace

import pytest

from tests.support.chromium import OpenPage, chromium
from tests.support.report_workspace import (
    DETECTIONS,
    add_analysis,
    add_video,
    entry,
    make_workspace,
)
from wtours.report.build import build_report
from wtours.report.curves import span_of, video_curves
from wtours.report.data import load_videos
from wtours.report.page import PageVideo, render_page
from wtours.report.table6 import make_table
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    layout, entries = make_workspace(tmp_path_factory.mktemp("workspace"))
    return build_report(layout, entries).page


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser, report):
    with OpenPage(browser, report, width=1280) as opened:
        yield opened
        opened.assert_quiet(report)


@pytest.mark.parametrize("width", [400, 1280, 1600])
def test_nothing_stands_out_of_the_window_and_nothing_is_asked_for(browser, report, width):
    with OpenPage(browser, report, width=width) as opened:
        assert opened.overflow() == []
        opened.assert_quiet(report)
        columns = opened.page.eval_on_selector(
            ".multiple", "e => getComputedStyle(e).gridTemplateColumns.split(' ').length"
        )
        assert columns == (1 if width == 400 else 5)


def test_the_check_sees_a_request_which_the_pages_own_policy_refuses(browser, report, tmp_path):
    bad = tmp_path / "bad.html"
    picture = '<img alt="" src="https://example.org/x.png"><script>document.title = "run"</script>'
    bad.write_text(report.read_text().replace("</main>", f"{picture}</main>"))
    with OpenPage(browser, bad, width=1280) as opened:
        assert len([text for text in opened.errors if "Content Security Policy" in text]) == 2
        assert opened.page.title() != "run"


def test_the_first_column_stays_when_a_table_is_scrolled_on_a_phone(browser, report):
    with OpenPage(browser, report, width=400) as opened:
        before, after, second = opened.page.evaluate(
            """() => {
              const region = document.querySelector("#table6 .wide");
              const [head, cell] = region.querySelectorAll("tbody tr:first-child > *");
              const before = head.getBoundingClientRect().left;
              region.scrollLeft = 150;
              return [before, head.getBoundingClientRect().left, cell.getBoundingClientRect().left];
            }"""
        )
        assert before == after
        assert second < before  # that one has moved under it


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read_on_light_and_on_dark_paper(browser, report, dark):
    with OpenPage(browser, report, width=1280, dark=dark) as opened:
        opened.page.eval_on_selector_all("details", "all => all.forEach(e => { e.open = true })")
        assert opened.low_contrasts() == []
        paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(23, 27, 32)" if dark else "rgb(255, 255, 255)")


def test_tables_are_sorted_by_their_headers_and_what_is_not_measured_stays_last(opened):
    def names():
        return opened.page.locator("#table6 tbody th").all_text_contents()

    frames = opened.page.get_by_role("button", name="#classes").first
    assert names() == ["Alpha", "Beta", "Gamma"]
    for direction, order in (
        ("ascending", ["Alpha", "Beta", "Gamma"]),  # beta and gamma have no classes
        ("descending", ["Alpha", "Beta", "Gamma"]),
    ):
        frames.press("Enter")
        header = opened.page.locator("#table6 th[aria-sort]")
        assert header.get_attribute("aria-sort") == direction
        assert names() == order
    opened.page.get_by_role("button", name="Video").first.click()
    opened.page.get_by_role("button", name="Video").first.click()
    assert names() == ["Gamma", "Beta", "Alpha"]
    settings = opened.page.locator("#settings")
    settings.get_by_role("button", name="transnetv2").click()
    assert settings.locator("tbody th").first.text_content() == "Alpha"  # the others have none


def test_a_long_name_breaks_after_its_signs_and_not_in_a_word(browser, tmp_path):
    layout = Layout(tmp_path)
    name = "camvid_0016e5_15hz_afternoon"
    add_video(layout, name)
    add_analysis(layout, name, detections=DETECTIONS)
    page_file = build_report(layout, [entry(name)]).page
    for width in (400, 1280, 1600):
        with OpenPage(browser, page_file, width=width) as opened:
            for place in ("#figure2 h3", "#table6 tbody th", "#settings tbody th"):
                assert "".join(lines := opened.lines(place)) == name
                assert all(line.endswith(("_", "noon")) for line in lines), (width, place, lines)
            assert opened.overflow() == []


def test_without_objects_a_curve_stays_above_its_axis_which_the_last_measured_video_has(
    browser, tmp_path
):
    layout = Layout(tmp_path)
    for video_id in ("alpha", "beta"):
        add_video(layout, video_id)
    add_analysis(layout, "alpha", detections=None)
    page_file = build_report(layout, [entry("alpha"), entry("beta")]).page
    with OpenPage(browser, page_file, width=1280) as opened:
        plot, axis = (opened.page.locator(f"#figure2 .{part}") for part in ("plot", "x"))
        assert axis.is_visible()
        box = plot.bounding_box()
        assert box["y"] + box["height"] <= axis.bounding_box()["y"]


def test_the_columns_of_shots_stand_together_and_fit_a_phone(browser, report):
    for width in (400, 1600):
        with OpenPage(browser, report, width=width) as opened:
            table = opened.page.locator("#video-alpha table.shots")
            assert table.bounding_box()["width"] <= 44 * 16
            region = opened.page.locator("#video-alpha .wide:has(.shots)")
            assert region.evaluate("e => e.scrollWidth - e.clientWidth") <= 0


def test_the_classes_to_choose_from_are_all_in_sight_on_a_desk(opened):
    bar = opened.page.locator("#filter")
    bar.locator("button").last.evaluate(
        "button => { for (let i = 0; i < 20; i += 1) button.after(button.cloneNode(true)); }"
    )
    assert bar.evaluate("e => e.scrollWidth - e.clientWidth") == 0
    assert opened.overflow() == []


def test_a_class_is_shown_alone_in_pictures_and_curves(opened):
    page = opened.page

    def shown(label):
        return page.eval_on_selector_all(
            f'.film path[data-label="{label}"]',
            "all => all.filter(e => e.checkVisibility()).length",
        )

    curve = "() => document.querySelector('[id$=-objects]').getAttribute('d')"
    everything = page.evaluate(curve)
    caption = page.locator("#video-alpha .viewer figcaption")
    assert "2 detections in this frame" in caption.text_content()
    assert (shown("person"), shown("car")) == (2, 1)
    page.locator("#filter").get_by_role("button", name="car").click()
    assert (shown("person"), shown("car")) == (0, 1)
    assert "0 detections in this frame" in caption.text_content()
    assert page.evaluate(curve) != everything
    page.locator("#filter").get_by_role("button", name="all").click()
    assert (shown("person"), shown("car")) == (2, 1)
    assert page.evaluate(curve) == everything


def test_the_scrubber_goes_through_the_pictures_by_keys(opened):
    slider = opened.page.get_by_role("slider", name="Frame of Alpha")
    caption = opened.page.locator("#video-alpha .viewer figcaption")
    assert caption.text_content().startswith("0:00:00.0")
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    assert caption.text_content().startswith("0:00:02.0 · lightness 70.0")
    assert slider.get_attribute("aria-valuetext").startswith("0:00:02.0, lightness 70.0")
    current = opened.page.locator("#video-alpha .film [aria-current=true]")
    assert current.get_attribute("data-seconds") == "2.0"
    stage = opened.page.locator("#video-alpha .viewer .stage")
    assert stage.locator("img").get_attribute("src") == current.locator("img").get_attribute("src")
    assert stage.locator(".box-label").all_text_contents() == ["car"]


def test_a_curve_shows_values_time_and_picture_under_the_pointer(opened):
    page, tip = opened.page, opened.page.locator("#tip")
    plot = page.locator('#figure2 .chart[data-video="p0"][data-kind="light"] .plot')
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    assert tip.is_visible()
    assert "Alpha, 0:00:03.0" in tip.text_content()
    assert "lightness 70.0 (60 to 80)" in tip.text_content()
    assert "1.0 objects per frame" in tip.text_content()
    assert "picture of 0:00:03.0" in tip.text_content()
    page.mouse.move(2, 2)
    assert tip.is_hidden()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    assert page.locator("#zoom-caption").text_content() == "0:00:02.0 (3 of 4)"


def test_a_picture_is_enlarged_and_the_keyboard_leads_through_them_and_back(opened):
    page, zoom = opened.page, opened.page.locator("#zoom")
    first = page.locator("#video-alpha .pairs-of-frames .thumb").first
    first.press("Enter")
    assert zoom.is_visible()
    small, large = first.bounding_box(), zoom.locator("img").bounding_box()
    assert large["width"] > 1.5 * small["width"]
    assert page.locator("#zoom-caption").text_content().startswith("cut at 0:00:02.0, before")
    page.keyboard.press("ArrowRight")
    assert page.locator("#zoom-caption").text_content().startswith("cut at 0:00:02.0, after")
    assert zoom.locator(".box-label").all_text_contents() == ["car"]
    page.keyboard.press("Escape")
    assert zoom.is_hidden()
    assert first.evaluate("e => e === document.activeElement")


def test_the_buttons_of_an_enlarged_picture_stay_in_one_row_on_a_phone(browser, report):
    with OpenPage(browser, report, width=400) as opened:
        opened.page.locator("#video-alpha .pairs-of-frames .thumb").first.click()
        names = ("Previous picture", "Next picture", "Close")
        buttons = [opened.page.get_by_role("button", name=name, exact=True) for name in names]
        assert len({button.bounding_box()["y"] for button in buttons}) == 1


def test_single_classes_of_a_folder_beside_the_videos_are_not_known_and_not_zero(browser, tmp_path):
    layout, entries = make_workspace(tmp_path)
    videos = load_videos(layout, entries, threshold=0.3)
    table = make_table(videos, threshold=0.3)
    span_us = span_of(videos)
    pages = [
        PageVideo(v, video_curves(v.measured, span_us=span_us) if v.measured else None, (), "")
        for v in videos
    ]
    alpha = pages[0]
    assert alpha.curves is not None
    assert alpha.curves.objects is not None
    known = dict.fromkeys(("person", "car"), alpha.curves.objects.values)
    pages[0] = replace(alpha, curves=replace(alpha.curves, by_class=known))
    file = tmp_path / "page.html"
    file.write_text(render_page(table, pages, [alpha]))
    with OpenPage(browser, file, width=1280) as opened:
        opened.page.locator("#filter").get_by_role("button", name="car").click()
        video, beside = (
            opened.page.locator(f"#p{number}-objects").get_attribute("d") for number in (0, 3)
        )
        assert video.startswith("M")
        assert beside == ""
        opened.page.locator("#filter").get_by_role("button", name="all").click()
        assert opened.page.locator("#p3-objects").get_attribute("d").startswith("M")
        opened.assert_quiet(file)
