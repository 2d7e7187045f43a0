"""The documentation site (`make docs`): the repository's Markdown pages as they are, with docs/README.md as its index.

The source folder is the repository itself, so that links and images lead to the same files as in the repository: pages
outside docs/ that are linked become pages of the site, and other files (code, records) become downloads.
"""

import re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parent.parent
INDEX = "docs/README"

project = "Cleanlabel"
extensions = ["myst_parser"]
root_doc = INDEX
include_patterns = [
    "docs/**.md",
    "*.md",
    "benchmarks/paper/*.md",
    "benchmarks/results/**/table.md",
]
exclude_patterns = [".*", "docs/_build", "data", "tests", "cleanlabel"]
highlight_language = "none"

myst_enable_extensions = ["dollarmath"]
myst_dmath_allow_space = False
myst_dmath_allow_digits = False
myst_heading_anchors = 4

html_theme = "furo"
html_title = "Cleanlabel"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_math_renderer = "mathml"


def navigation() -> str:
    """The left side, from the index's own sections and the pages that each of them links."""
    trees = []
    for section in re.split(r"(?m)^## ", (ROOT / f"{INDEX}.md").read_text())[1:]:
        pages = [link for link in re.findall(r"\]\(([\w/.-]+)\.md\)", section) if "#" not in link]
        if pages and not section.startswith("Common questions"):
            trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {section.splitlines()[0]}", *pages, "```"]))
    return "\n\n".join(trees)


def prepare(app: Sphinx, page: str, source: list[str]) -> None:
    """The index gets the navigation. A page outside docs/ that the navigation lacks is reached by links alone."""
    if page == INDEX:
        source[0] += f"\n\n{navigation()}\n"
    elif not page.startswith("docs/"):
        source[0] = f"---\norphan: true\n---\n{source[0]}"


def formula(writer: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """A formula as MathML, which browsers draw themselves: no script and no network."""
    shown = isinstance(node, nodes.math_block)
    mathml = convert(node.astext(), display="block" if shown else "inline")
    writer.body.append(f'<div class="formula">{mathml}</div>' if shown else mathml)
    raise nodes.SkipNode


def front_door(app: Sphinx, error: Exception | None) -> None:
    """index.html leads to the index."""
    if error is None:
        door = f'<meta http-equiv="refresh" content="0; url={INDEX}.html"><a href="{INDEX}.html">Documentation</a>\n'
        (Path(app.outdir) / "index.html").write_text(f"<!doctype html>{door}")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", inline_renderers=(formula, None), block_renderers=(formula, None))
    app.connect("source-read", prepare)
    app.connect("build-finished", front_door)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
