from pathlib import Path

import pytest

from wtours.errors import UsageError
from wtours.storage.scratch import parse_size, scratch_bytes, scratch_folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500GB", 500 * 10**9), ("1.5 T", 15 * 10**11), ("2k", 2000), ("7", 7), ("3MiB", 3 * 2**20)],
)
def test_sizes_are_read_as_people_write_them(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "0", "many", "-1GB", "1e9", "10 potatoes"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match=r"--scratch-size .* must be a number of bytes above 0"):
        parse_size(text)


def test_the_environment_says_where_and_how_much(monkeypatch):
    monkeypatch.setenv("WTOURS_SCRATCH", "/elsewhere")
    monkeypatch.setenv("WTOURS_SCRATCH_SIZE", "2GB")
    assert (scratch_folder(), scratch_bytes()) == (Path("/elsewhere"), 2 * 10**9)
    monkeypatch.delenv("WTOURS_SCRATCH")
    monkeypatch.delenv("WTOURS_SCRATCH_SIZE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert (scratch_folder(), scratch_bytes()) == (Path("/caches/wtours"), 100 * 10**9)
