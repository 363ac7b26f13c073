"""Files that the pages for contributors name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = re.compile(r"`((?:grow|tests|configs|docs|benchmarks|studies|scripts|slurm)/[\w./-]*)`")
PAGES = ("CONTRIBUTING.md", "README.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md"))))


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page):
    named = {path for path in PATH.findall((ROOT / page).read_text()) if "NAME" not in path}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_pattern_finds_paths():
    assert PATH.findall("see `grow/growth/maps.py` and `tests/`") == ["grow/growth/maps.py", "tests/"]
