import csv
import json

import pytest

from tests.support.report_workspace import add_analysis, add_video, entry, make_workspace
from wtours.report.data import load_videos
from wtours.report.footnotes import footnotes
from wtours.report.table6 import QUANTITIES, count_at, format_figure, make_table
from wtours.report.table6_export import table_texts, to_csv, to_json, to_markdown
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import load_manifest


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


def table(workspace, threshold=0.3):
    layout, entries = workspace
    return make_table(load_videos(layout, entries, threshold=threshold), threshold=threshold)


def test_a_row_is_the_figures_that_one_counts_by_hand(workspace):
    row = table(workspace).rows[0]
    measured = dict(
        zip((q.key for q in QUANTITIES), (cell.measured for cell in row.cells), strict=True)
    )
    assert measured == {
        "frames_thousands": 0.04,
        "minutes": 4 / 60,
        "cuts": 1,
        "objects_per_frame": 1.0,  # 4 detections from 0.3 up on 4 frames, one of them empty
        "classes": 2,
    }


def test_deviation_is_a_share_of_the_published_figure_but_a_difference_of_cuts(workspace):
    deviations = [cell.deviation for cell in table(workspace).rows[0].cells]
    assert deviations == pytest.approx([-0.2, -1 / 3, 1, -0.5, -0.5])


@pytest.mark.parametrize(
    ("threshold", "objects_per_frame", "classes"),
    [(0.05, 1.75, 4), (0.1, 1.5, 3), (0.2, 1.25, 2), (0.3, 1.0, 2), (0.5, 0.5, 2), (1.0, 0.0, 0)],
)
def test_objects_are_counted_anew_from_any_score(workspace, threshold, objects_per_frame, classes):
    video = table(workspace, threshold).videos[0]
    assert count_at(video, threshold) == (objects_per_frame, classes)
    assert count_at(video, 0.5) == (0.5, 2)  # whatever the report's own threshold


def test_a_score_that_float32_rounds_down_counts_at_its_own_threshold(tmp_path):
    layout = Layout(tmp_path)
    add_video(layout, "alpha")
    add_analysis(layout, "alpha", detections=[(0, "person", 0.7)])
    (video,) = load_videos(layout, [entry("alpha")], threshold=0.7)
    assert count_at(video, 0.7) == (0.25, 1)


def test_below_the_score_that_is_stored_nothing_is_claimed(workspace):
    assert count_at(table(workspace, 0.01).videos[0], 0.01) == (None, None)


def test_per_frame_counts_keep_the_frames_without_objects(workspace):
    objects = table(workspace).videos[0].measured.objects
    assert objects.per_frame.tolist() == [2, 0, 1, 1]
    assert objects.pts_us.tolist() == [0, 1_000_000, 2_000_000, 3_000_000]
    assert objects.class_counts == (("person", 3), ("car", 1))


def test_what_was_not_measured_says_so_and_is_no_zero(workspace):
    made = table(workspace)
    _, beta, gamma = csv.DictReader(to_csv(made).splitlines()[:4])
    assert [beta[f"{q.key}_measured"] for q in QUANTITIES][3:] == ["not measured"] * 2
    assert [gamma[f"{q.key}_measured"] for q in QUANTITIES] == ["not measured"] * 5
    assert [gamma[f"{q.key}_deviation"] for q in QUANTITIES] == [""] * 5
    assert gamma["cuts_published"] == "3"
    assert gamma["classes_at_0.1"] == "not measured"
    in_json = to_json(made)["videos"]
    assert set(in_json[2]["measured"].values()) == {None}
    assert in_json[1]["how"]["objects_not_measured"] == "no detector was asked for"
    lines = to_markdown(made).splitlines()
    assert "| Gamma | unknown | not measured / 0.1 | not measured / 0.1 | not measured / 3 |" in (
        "".join(line for line in lines if line.startswith("| Gamma"))
    )


def test_markdown_csv_and_json_agree(workspace):
    made = table(workspace)
    as_json = json.loads(json.dumps(to_json(made)))
    rows = list(csv.DictReader(to_csv(made).splitlines()))
    markdown = [line.split(" | ") for line in to_markdown(made).splitlines()[4:7]]
    for video, row, cells in zip(as_json["videos"], rows[:-1], markdown, strict=True):
        assert row["video"] == video["id"]
        for number, quantity in enumerate(QUANTITIES):
            value = video["measured"][quantity.key]
            text = row[f"{quantity.key}_measured"]
            assert text == ("not measured" if value is None else str(value))
            assert cells[2 + number].startswith(format_figure(value, quantity))
        for counts in video["objects_at"]:
            classes = counts["classes"]
            text = row[f"classes_at_{counts['threshold']}"]
            assert text == ("not measured" if classes is None else str(classes))
    average = as_json["average"]["measured"]["frames_thousands"]
    assert float(rows[-1]["frames_thousands_measured"]) == average == 0.04


def test_videos_that_no_paper_knows_have_figures_as_people_read_them(workspace):
    layout, entries = workspace
    own = [entries[0].model_copy(update={"published": None}), entries[1]]
    head, alpha, beta, average = table_texts(table((layout, own)))
    assert head[2:] == ["Frames", "Duration", "Cuts", "Objects/frame", "Classes"]
    assert alpha[2:] == ["40", "0:00:04.0", "1", "1.0", "2"]
    assert beta[4:] == ["1", "not measured", "not measured"]
    assert average[2:5] == ["40", "0:00:04.0", "1.0"]


def test_two_videos_of_one_title_are_told_apart_by_their_ids(workspace):
    layout, entries = workspace
    same = [entry.model_copy(update={"title": "IMG_0042"}) for entry in entries[:2]]
    made = table((layout, [*same, entries[2]]))
    assert [row[0] for row in table_texts(made)[1:]] == ["alpha", "beta", "gamma", "Average"]
    assert "IMG" not in to_markdown(made)


def test_averages_over_different_videos_are_not_compared(workspace):
    layout, entries = workspace
    frames = table(workspace).average.cells[0]
    # Measured: alpha and beta; published: alpha and gamma.
    assert (frames.measured, frames.published, frames.deviation) == (0.04, 0.05, None)
    alone = table((layout, entries[:1])).average.cells[0]
    assert alone.deviation == pytest.approx(-0.2)


def test_json_says_how_each_figure_was_measured(workspace):
    made = to_json(table(workspace))
    assert made["cut_detector"] == "adaptive"
    assert made["threshold"] == 0.3
    how = made["videos"][0]["how"]
    by_detector = {"adaptive": 1, "content27": 2, "content30": 0, "transnetv2": 7}
    assert how["cuts_by_detector"] == by_detector
    assert how["objects"] == {
        "detector": "file:truth.parquet",
        "weights_sha256": "0" * 64,
        "vocabulary_size": 4,
        "stored_from_score": 0.05,
        "max_per_frame": None,
        "detect_fps": 1.0,
        "every_frame": False,
        "frames_analysed": 4,
        "frames_at_cap": 0,
    }
    assert made["videos"][2]["how"] is None


def test_the_averages_and_contradictions_of_the_ten_videos_are_the_papers(tmp_path):
    entries = load_manifest().videos
    made = make_table(load_videos(Layout(tmp_path), entries, threshold=0.3), threshold=0.3)
    average = [
        format_figure(cell.published, quantity, is_average=True)
        for cell, quantity in zip(made.average.cells, QUANTITIES, strict=True)
    ]
    assert average == ["153.2", "82.8", "1.6", "38.5", "636"]
    notes = " ".join(footnotes(made.videos, threshold=0.3))
    assert "23.3 (Chiang Mai) to 40.8 (Singapore) frames/s" in notes
    assert "Bangkok lasts 2 h 55 min, its table 153 min" in notes
    assert "Venice is not measured: run `wtours download --video venice`" in notes
    venice = [video for video in made.videos if video.label == "Venice"]
    assert footnotes(venice, threshold=0.3)[0].startswith("The paper's frames of Venice divided by")


def test_an_analysis_of_another_file_is_said_to_be_one(tmp_path):
    layout = Layout(tmp_path)
    add_video(layout, "alpha")
    add_analysis(layout, "alpha", detections=None)
    clip = layout.video_dir("alpha") / "alpha.mp4"
    receipt = layout.video_receipt("alpha")
    text = receipt.read_text()
    sha256 = json.loads(text)["files"][0]["sha256"]
    receipt.write_text(text.replace(sha256, "f" * 64))
    assert clip.is_file()
    (video,) = videos = load_videos(layout, [entry("alpha")], threshold=0.3)
    assert not video.is_same_file
    assert any("another file" in note for note in footnotes(videos, threshold=0.3))


def test_titles_are_text_in_markdown_and_in_spreadsheets(tmp_path):
    title = "=H|<b>b</b>[l](x)`"
    entries = [entry("alpha", title=title, domain="@SUM(A1)")]
    made = make_table(load_videos(Layout(tmp_path), entries, threshold=0.3), threshold=0.3)
    line = next(line for line in to_markdown(made).splitlines() if "=H" in line)
    assert r"=H\|\<b\>b\</b\>\[l\]\(x\)\`" in line
    (row, _) = csv.DictReader(to_csv(made).splitlines())
    assert (row["title"], row["domain"]) == (f"'{title}", "'@SUM(A1)")


def test_an_average_over_some_of_the_videos_says_so_also_without_a_paper(tmp_path):
    layout = Layout(tmp_path)
    for video_id in ("alpha", "beta"):
        add_video(layout, video_id)
    add_analysis(layout, "alpha", detections=[(0, "person", 0.7)])
    entries = [entry("alpha"), entry("beta")]
    notes = make_table(load_videos(layout, entries, threshold=0.3), threshold=0.3).notes
    assert notes[-1] == (
        "An average is over the videos that have the figure (of 2: Frames 1, Duration 1, Cuts 1, "
        "Objects/frame 1, Classes 1)."
    )
    whole = make_table(load_videos(layout, entries[:1], threshold=0.3), threshold=0.3).notes
    assert not [note for note in whole if note.startswith("An average")]
    # Stored from 0.05 up: the objects of no video are measured from below, and no average is.
    below = make_table(load_videos(layout, entries[:1], threshold=0.01), threshold=0.01).notes
    assert not [note for note in below if note.startswith("An average")]


def test_an_average_beside_the_papers_says_of_how_many_videos_it_is(workspace):
    assert table(workspace).notes[-1] == (
        "An average is over the videos that have the figure (of 3: #frames (x1000) 2, "
        "Duration (min) 2, #shots (cuts) 2, #objects/frame 1, #classes 1); averages over "
        "different videos are not compared."
    )
