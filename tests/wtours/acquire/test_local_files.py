"""What fetchers accept and refuse, and how yt-dlp's errors read."""

import subprocess
import sys
from pathlib import Path

import pytest
from yt_dlp.utils import DownloadError as YtDlpError

from tests.support.http_server import Resource, serve
from wtours.acquire.local_files import find_given_file, find_named_file, working_folder, youtube_ids
from wtours.acquire.rate_limit import HostBusyError
from wtours.acquire.ytdlp.errors import explain
from wtours.acquire.ytdlp.fetcher import YtDlpFetcher
from wtours.errors import DownloadError, PermanentDownloadError
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.source_url import SourceUrl


def ignore(done: float, total: float | None) -> None:
    pass


@pytest.mark.parametrize(
    ("url", "ids"),
    [
        ("https://www.youtube.com/watch?v=_NmYvuEILw4", ["_NmYvuEILw4"]),
        ("https://www.youtube.com/watch?list=x&v=Jr9x-RB4E1U&t=3", ["Jr9x-RB4E1U"]),
        ("https://youtu.be/fGX0Te6pFvk", ["fGX0Te6pFvk"]),
        ("https://www.youtube.com/watch?v=fGX0Te6pFvkkk", []),
        ("https://example.org/video.mp4", []),
    ],
)
def test_youtube_ids_are_found_in_every_form_of_url(url, ids):
    assert youtube_ids([url]) == ids


@pytest.mark.parametrize("name", ["../x.mp4", "/etc/passwd", "a/../../x.mp4", "//etc/passwd"])
def test_a_file_source_outside_its_folder_is_refused_whether_it_exists_or_not(name, tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    with pytest.raises(PermanentDownloadError, match="leads outside"):
        find_named_file(f"file:{name}", folder)


def test_a_file_source_without_a_folder_says_how_to_give_one():
    with pytest.raises(DownloadError, match="--from-dir"):
        find_named_file("file:x.mp4", None)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        DownloadError, match=f"there is no file {tmp_path}/x.mp4; --from-dir DIR says"
    ):
        find_named_file("file:x.mp4", tmp_path)


def test_footage_that_has_moved_is_found_by_its_name_alone(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"moved")
    assert find_named_file("file:footage/day 2/x.mp4", tmp_path) == tmp_path / "x.mp4"
    (tmp_path / "footage" / "day 2").mkdir(parents=True)
    there = tmp_path / "footage" / "day 2" / "x.mp4"
    there.write_bytes(b"where it was")
    assert find_named_file("file:footage/day 2/x.mp4", tmp_path) == there


def test_a_given_folder_that_is_no_folder_is_named(tmp_path):
    entry = VideoEntry(id="walk", title="A walk", sources=("file:x.mp4",))
    with pytest.raises(DownloadError, match="nowhere is not a folder"):
        find_given_file(entry, tmp_path / "nowhere")


def test_a_working_folder_is_kept_for_the_same_version_and_dropped_for_another(tmp_path):
    first = working_folder(tmp_path, "a", {"etag": "1"})
    (first / "source.part").write_bytes(b"half")
    other_source = working_folder(tmp_path, "b", {"etag": "1"})
    assert working_folder(tmp_path, "a", {"etag": "1"}) == first
    assert (first / "source.part").read_bytes() == b"half"
    assert working_folder(tmp_path, "a", {"etag": "2"}) != first
    assert not first.exists()
    assert other_source.exists()


@pytest.mark.parametrize(
    ("status", "kind", "remedy", "times"),
    [
        (403, DownloadError, "try again later", 2),
        (404, PermanentDownloadError, "use another source", 1),
        (410, PermanentDownloadError, "use another source", 1),
        (429, HostBusyError, "fewer requests", 1),
    ],
)
def test_a_refusal_is_told_with_its_status_and_not_asked_on(status, kind, remedy, times, tmp_path):
    with serve({"/x.mp4": Resource(b"", failing_statuses=[status] * 9)}) as server:
        with pytest.raises(DownloadError, match=f"HTTP Error {status}") as error:
            YtDlpFetcher()(server.url("/x.mp4"), tmp_path, ignore)
        assert len(server.requests) == times
    assert remedy in str(error.value)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("message", "warning", "kind", "remedy"),
    [
        (
            "ERROR: [youtube] fGX0Te6pFvk: Sign in to confirm you\u2019re not a bot. "
            "Use --cookies-from-browser or --cookies for the authentication.",
            "",
            DownloadError,
            "--cookies-from-browser",
        ),
        (
            "ERROR: [youtube] x: Please sign in. Use --cookies-from-browser or --cookies for the "
            "authentication.",
            "",
            DownloadError,
            "--cookies-from-browser",
        ),
        (
            "ERROR: [youtube] x: Video unavailable. This content isn\u2019t available, try again "
            "later. The current session has been rate-limited by YouTube for up to an hour. It is "
            "recommended to use `-t sleep` to add a delay between video requests",
            "",
            DownloadError,
            "try again in an hour",
        ),
        (
            "ERROR: [youtube] x: Video unavailable. This video contains content from A, who has "
            "blocked it in your country on copyright grounds",
            "",
            DownloadError,
            "--proxy",
        ),
        (
            "ERROR: [youtube] x: Private video. Sign in if you've been granted access to this "
            "video. Use --cookies-from-browser or --cookies for the authentication.",
            "",
            PermanentDownloadError,
            "gone",
        ),
        ("ERROR: [youtube] x: Video unavailable", "", PermanentDownloadError, "gone"),
        (
            "ERROR: [youtube] x: Requested format is not available",
            "No supported JavaScript runtime could be found. Only deno is enabled by default",
            DownloadError,
            "install deno, or node 20",
        ),
        ("ERROR: \x1b[0;31mstrange\x1b[0m\nthing", "", DownloadError, "strange thing"),
    ],
)
def test_youtube_errors_say_what_to_do(message, warning, kind, remedy, tmp_path):
    error = explain(
        YtDlpError(message), source=SourceUrl("URL"), folder=tmp_path, warnings=[warning]
    )
    assert type(error) is kind
    assert str(error).startswith("URL: ")
    assert remedy in str(error)
    assert str(error).isprintable()


def test_ytdlp_reads_no_file_urls(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"secret")
    with pytest.raises(DownloadError, match="file://"):
        YtDlpFetcher()(f"file://{tmp_path}/x.mp4", tmp_path, ignore)


def test_a_playlist_page_is_refused(tmp_path):
    rss = (
        b'<?xml version="1.0"?><rss version="2.0"><channel><title>t</title>'
        b"<item><title>a</title><link>http://127.0.0.1/a</link></item></channel></rss>"
    )
    with (
        serve({"/feed": Resource(rss, content_type="text/xml")}) as server,
        pytest.raises(PermanentDownloadError, match="list of videos"),
    ):
        YtDlpFetcher()(server.url("/feed"), tmp_path, ignore)


@pytest.mark.medium
def test_plugins_of_the_users_machine_are_not_loaded(tmp_path):
    folder = tmp_path / "plugins" / "yt_dlp_plugins" / "extractor"
    folder.mkdir(parents=True)
    (folder / "spy.py").write_text("print('the plugin ran')\n")
    start = f"import sys; sys.path.insert(0, {str(folder.parents[1])!r}); "
    plain = start + "import yt_dlp; yt_dlp.YoutubeDL({'quiet': True})"
    ours = start + (
        "from pathlib import Path; from wtours.acquire.ytdlp.fetcher import YtDlpFetcher\n"
        "try: YtDlpFetcher()('file:///x.mp4', Path('.'), print)\n"
        "except Exception: print('refused')"
    )
    assert "the plugin ran" in run_python(plain)  # so the test can fail
    assert run_python(ours) == "refused\n"


def test_without_ytdlp_the_message_names_the_extra():
    output = run_python(
        "import sys; sys.modules['yt_dlp'] = None\n"
        "from wtours.errors import MissingPackageError\n"
        "try: import wtours.acquire.ytdlp.fetcher\n"
        "except MissingPackageError as error: print(error)"
    )
    assert "needs yt-dlp" in output
    assert "pip install 'wtours[download]'" in output


def test_local_files_need_no_ytdlp():
    code = "import sys, wtours.acquire.download; print('yt_dlp' in sys.modules)"
    assert run_python(code) == "False\n"


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    return result.stdout
