"""SECURITY.md lists exactly the attacks there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_list_and_the_folder_agree() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (.+) \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    listed = [name for name, _ in rows]
    files = [
        str(path.relative_to(ROOT))
        for folder in ("attacks", "fuzz")
        for path in sorted((ROOT / "tests" / folder).glob("test_*.py"))
        if path.name != Path(__file__).name
    ]
    assert listed == files
    assert all(len(tried.split()) >= 5 for _, tried in rows)
