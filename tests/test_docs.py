"""The pages that people read: links lead somewhere, the files they name are there, Python compiles, README is short."""

import ast
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from filled import filled
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


def pages_with(pattern: str) -> list[Path]:
    return [page for page in PAGES if re.search(pattern, page.read_text())]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as repository pages make them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages_with(LINK.pattern), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page):
    for target in filled(LINK.findall(page.read_text())):
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


@pytest.mark.parametrize("page", pages_with(r"(?m)^```python$"), ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_compile_and_what_they_import_is_there(page):
    blocks = [ast.parse(block) for block in re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text())]
    for node in filled(
        node for block in blocks for node in block.body if isinstance(node, ast.Import | ast.ImportFrom)
    ):
        exec(compile(ast.Module([node], []), str(page), "exec"), {})


def links(page: Path) -> set[Path]:
    """Where the links of a page lead."""
    return {(page.parent / target.partition("#")[0]).resolve() for target in LINK.findall(page.read_text())}


def test_the_readme_fits_180_lines_and_it_or_the_index_leads_to_every_page():
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 180
    linked = links(readme) | links(ROOT / "docs" / "README.md")
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} <= linked


@pytest.fixture(scope="module")
def generate():
    """docs/generate.py as a module."""
    spec = spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_generated_reference_is_what_the_code_says(generate):
    assert {path.name for path in generate.REFERENCE.glob("*.md")} == set(generate.PAGES)
    for page in generate.PAGES:
        written = (generate.REFERENCE / page).read_text()
        assert written == generate.text_of(page), f"docs/reference/{page} is stale: run `{generate.COMMAND}`"


def code() -> str:
    """The text of every module of the rooms."""
    rooms = ("sanitize", "models", "flows", "redteam", "cleanlabel")
    return "\n".join(path.read_text() for room in rooms for path in sorted((ROOT / room).rglob("*.py")))


def test_every_environment_variable_of_the_code_is_documented(generate):
    ours = {name for name in generate.VARIABLES if name.startswith("CLEANLABEL_")}
    assert set(re.findall(r"CLEANLABEL_[A-Z_]+", code())) == ours


def test_every_command_is_documented(generate):
    page = generate.text_of("commands.md")
    for room in ("sanitize", "flows", "redteam"):
        for path in filled((ROOT / room).glob("[a-z]*.py")):
            if generate.is_command(path) and path.stem != "preview":
                assert f"python -m {room}.{path.stem}" in page


def test_every_tag_and_event_that_is_documented_stands_in_the_code(generate):
    text = code()
    for name in [*generate.TAGS, *generate.EVENTS]:
        assert f'"{name}"' in text, f"{name} is documented, and no code has it"
