"""Every address that the README, the docs and the program give is well-formed, and ours exist.

`make docs` checks the links between the pages; here are those that leave them, without a network.
"""

import re
import runpy
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
TEXTS = [
    *ROOT.glob("*.md"),
    *(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts),
    *(path for top in ("wtours", "training") for path in (ROOT / top).rglob("*.py")),
]
ADDRESS = re.compile(r"https?://[\w{][^\s<>\"'`)\]}]+")
HEADING = re.compile(r"^#{1,4} +(.+)$", re.MULTILINE)


def addresses() -> set[str]:
    texts = (path.read_text(encoding="utf-8") for path in TEXTS)
    found = {match.rstrip(".,;:*") for text in texts for match in ADDRESS.findall(text)}
    return {address for address in found if "…" not in address and "{" not in address}


def page_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as MyST makes them, with what the code fills in."""
    from myst_parser.mdit_to_docutils.base import default_slugify

    from_code = runpy.run_path(str(ROOT / "docs" / "_ext" / "from_code.py"))
    text = from_code["MARK"].sub(
        lambda mark: from_code["PARTS"][mark[1]](), page.read_text(encoding="utf-8")
    )
    return {default_slugify(heading.replace("`", "")) for heading in HEADING.findall(text)}


def test_addresses_are_well_formed():
    for address in addresses():
        parts = urlsplit(address)
        assert re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", parts.netloc.rpartition("@")[2]), address
        assert "." in parts.netloc or "localhost" in parts.netloc, address


def test_a_page_of_the_site_exists_where_it_is_named():
    pytest.importorskip("myst_parser")
    site = URLS["Documentation"]
    pages = [address for address in addresses() if address.startswith(site) and address != site]
    assert pages
    for address in pages:
        name, _, anchor = address.removeprefix(site).removeprefix("en/latest/").partition("#")
        assert name.endswith(".html"), address
        page = ROOT / "docs" / name.replace(".html", ".md")
        assert page.is_file(), address
        assert not anchor or anchor in page_anchors(page), address


def test_a_file_of_the_repository_exists_where_it_is_named():
    repository = URLS["Repository"]
    raw = repository.replace("://github.com", "://raw.githubusercontent.com")
    ours = re.compile(f"(?:{re.escape(repository)}/(?:blob|tree)|{re.escape(raw)})/main/(.+)")
    for address in addresses():
        if found := ours.match(address):
            assert (ROOT / found[1].partition("#")[0]).exists(), address


def test_the_readme_has_no_relative_link():
    """PyPI shows it too, where a relative link leads nowhere."""
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


def test_a_page_that_the_program_names_exists():
    """By its file, or by `docs_page("howto/detectors")`, which makes an address of it."""
    named = re.compile(r"\bdocs/([\w/-]+\.md)|docs_page\([\"']([\w/-]+)[\"']\)")
    found = {
        f"{page}.md" if page else file
        for path in TEXTS
        if path.suffix == ".py"
        for file, page in named.findall(path.read_text(encoding="utf-8"))
    }
    assert len(found) > 5
    assert {file for file in found if not (ROOT / "docs" / file).is_file()} == set()
