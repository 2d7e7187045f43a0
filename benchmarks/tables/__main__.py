"""Write every marked table and figure of README.md and docs/ anew from the records.

python -m benchmarks.tables

A page has `<!-- table: NAME -->` or, inside a sentence, `<!-- figure: NAME -->`, then the text that this command
writes, then `<!-- end -->`. It names the pages that it changed.
"""

import argparse
from pathlib import Path

from benchmarks.tables.pages import filled, pages
from cleanlabel.sanitize import errors

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    for page in pages(ROOT):
        before = page.read_text()
        after = filled(before)
        if after != before:
            page.write_text(after)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    errors.run(main)
