"""A headless Chromium for the tests of pages; they skip, and say why, where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser for which no host name resolves."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs chromium on the PATH")
    options = ["--host-resolver-rules=MAP * ~NOTFOUND", "--no-sandbox", "--disable-gpu"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


class OpenPage:
    """A page with what its console said and what it asked for."""

    def __init__(self, browser: Any, file: Path, *, width: int, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> "OpenPage":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def assert_quiet(self, file: Path) -> None:
        """Nothing was said on the console, and nothing asked for but the file and its own data."""
        assert self.errors == []
        others = [url for url in self.requests if not url.startswith("data:")]
        assert others == [file.as_uri()]

    def overflow(self) -> list[str]:
        """Return the elements that stand out of the window, but those that scroll by themselves."""
        found: list[str] = self.page.evaluate(_OVERFLOW)
        return found

    def lines(self, selector: str) -> list[str]:
        """Return the text of the first such element as the lines that the browser makes of it."""
        found: list[str] = self.page.eval_on_selector(selector, _LINES)
        return found

    def low_contrasts(self) -> list[str]:
        """Return the texts whose computed color is less than 4.5:1 from what is behind it."""
        found: list[str] = self.page.evaluate(_CONTRAST)
        return found


_OVERFLOW = """() => {
  const own = (e) => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
  const scrolls = (e) => e && (own(e) || scrolls(e.parentElement));
  const out = [...document.body.querySelectorAll("*")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width && box.right > innerWidth + 1 && !scrolls(e);
  });
  const page = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
  return [...page, ...out.map((e) => e.outerHTML.slice(0, 80))];
}"""

_LINES = """(element) => {
  const range = document.createRange(), lines = [];
  const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  for (let node, last = null; (node = texts.nextNode());) {
    for (let i = 0; i < node.length; i += 1) {
      range.setStart(node, i);
      range.setEnd(node, i + 1);
      const { top } = range.getBoundingClientRect();
      if (last === null || Math.abs(top - last) > 2) lines.push("");
      lines[lines.length - 1] += node.data[i];
      last = top;
    }
  }
  return lines;
}"""

_CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const e of document.body.querySelectorAll("*")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || ["SCRIPT", "STYLE"].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const color = e.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [a, b] = [light(parse(color)), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${e.outerHTML.slice(0, 80)} ${color}`);
  }
  return low;
}"""
