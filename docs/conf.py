"""The documentation site: Sphinx, furo, MyST. `make docs` builds it; a warning is an error."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]  # the checkout's wtours, not an installed one

from from_code import MARK, PARTS  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

_PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
author = _PROJECT["authors"][0]["name"]
release = version = _PROJECT["version"]
project_copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
default_role = "code"  # a `name` in a docstring
exclude_patterns = ["_build", "_ext"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "attrs_inline", "deflist"]
suppress_warnings = ["myst.xref_missing_lang"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False

copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_title = f"wtours {release}"
html_baseurl = _PROJECT["urls"]["Documentation"]
html_static_path: list[str] = []
html_theme_options = {
    "source_repository": _PROJECT["urls"]["Repository"],
    "source_branch": "main",
    "source_directory": "docs/",
}

man_pages = [("reference/commands", project, _PROJECT["description"], author, 1)]
man_show_urls = True


def _fill_in(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = MARK.sub(lambda mark: PARTS[mark[1]](), source[0])


def setup(app: Sphinx) -> None:
    """Have the pages' marks replaced by what the code says."""
    app.connect("source-read", _fill_in)
