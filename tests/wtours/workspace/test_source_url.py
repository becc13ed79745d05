"""Sources show no secret, wherever they are printed; and what may be a source at all."""

import pickle

import pytest

from wtours.errors import ManifestError
from wtours.text import redact_urls
from wtours.workspace.manifest import VideoEntry, new_entry
from wtours.workspace.source_url import SourceUrl, checked_source


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://www.youtube.com/watch?v=fGX0Te6pFvk&t=3", None),
        ("https://www.youtube.com/watch?v=a&list=PLrAXtmErZgOeiKm4sgNOknGvNjby9efdf", None),
        ("https://example.org/a%20walk.mp4#t=3", None),
        ("file:sub/a walk.mp4", None),
        ("https://me:pw@example.org/x.mp4", "https://REDACTED@example.org/x.mp4"),
        ("https://pw@example.org", "https://REDACTED@example.org"),
        (
            "https://h/x?AWSAccessKeyId=a&Signature=b",
            "https://h/x?AWSAccessKeyId=REDACTED&Signature=REDACTED",
        ),
        (
            "https://h/x?id=3&api_key=b#access_token=c",
            "https://h/x?id=3&api_key=REDACTED#access_token=REDACTED",
        ),
        (f"https://h/x?q={'z' * 40}", "https://h/x?q=REDACTED"),
        ("https://h/x?%74oken=2&id=3", "https://h/x?%74oken=REDACTED&id=3"),
        ("https://h/x?a=1;PassWord=2", "https://h/x?a=1;PassWord=REDACTED"),
    ],
)
def test_secrets_are_hidden_and_the_rest_stays(url, shown):
    source = SourceUrl(url)
    assert str(source) == f"{source}" == (shown or url)
    assert source.working == url
    assert SourceUrl(source) is source
    assert SourceUrl(str(source)) == source
    assert redact_urls(f"'{url}' is gone") == f"'{shown or url}' is gone"


def test_an_entry_keeps_the_working_url_in_memory_only():
    url = "https://me:pw12@example.org/x.mp4?token=abcd"
    entry = VideoEntry(id="a", title="a", sources=(url,))
    assert SourceUrl(entry.sources[0]).working == url
    for text in (repr(entry), entry.model_dump_json(), str(entry.model_dump(mode="json"))):
        assert "pw12" not in text
        assert "abcd" not in text
    assert pickle.loads(pickle.dumps(entry.sources[0])).working == url


def test_text_of_others_is_rid_of_the_secrets():
    source = SourceUrl("https://me:pa%24word@example.org/x?token=se%2Fcret&v=walk")
    text = "no walk at x?token=se/cret, https://me:pa%24word@example.org/x, pa$word, se%2Fcret"
    hidden = source.hide(text)
    assert "word@" not in hidden
    assert "cret" not in hidden.replace("REDACTED", "")
    assert "pa$word" not in hidden
    assert "no walk at" in hidden


@pytest.mark.parametrize(
    "url",
    [
        "FILE:///etc/passwd",
        "File:x.mp4",
        "file:///etc/passwd",
        "ftp://h/x",
        "https:///x",
        "http://[::1",
        "data:text/plain,x",
        "https://h/x#__youtubedl_smuggle=%7B%22a%22%3A1%7D",
        "https://me:pw12@/x",
        "ytsearch:walk",
    ],
)
def test_other_sources_are_refused_and_their_secrets_not_shown(url):
    with pytest.raises(ValueError, match=r".") as caught:
        checked_source(url)
    assert "pw12" not in str(caught.value)
    with pytest.raises(ManifestError) as refused:
        new_entry(id="a", title="a", sources=(url,))
    assert SourceUrl(url)[:12] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "pw12" not in str(refused.value)
