"""The pages that people read: links lead somewhere, the files they name are there, Python compiles, README is short."""

import ast
import re
from pathlib import Path

import pytest
from imports import ROOT

PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]
    if path.name != "table.md"
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(
    r"`((?:sanitize|models|flows|redteam|benchmarks|tests|docs|cleanlabel)/[\w./-]+\.(?:py|md|yaml|toml|json|png))`"
)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as repository pages make them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page):
    for target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{target} leads nowhere"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{found.relative_to(ROOT)} has no heading for #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_the_project_that_a_page_names_is_there(page):
    assert [name for name in FILE.findall(page.read_text()) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_compile_and_what_they_import_is_there(page):
    for block in re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text()):
        for node in ast.parse(block).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), str(page), "exec"), {})


def test_the_readme_fits_180_lines_and_leads_to_every_page():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 180
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in LINK.findall(readme)}
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} <= linked
