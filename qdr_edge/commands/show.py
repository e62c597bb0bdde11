"""What the commands share in printing: safe text and key-value tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

SYNTHETIC_NOTICE = "Trained on SYNTHETIC images: a demonstration, without any clinical meaning."
UNSIGNED_NOTICE = "UNSIGNED bundle: nobody vouches for it."
UNPROVEN_NOTICE = "UNPROVEN bundle: it was sealed although a target decided differently."


def printable(text: object) -> str:
    """Text of a file without what could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def size_text(size_bytes: int) -> str:
    """A file size for people, in units of 1000."""
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def pairs(title: str, rows: Iterable[tuple[str, object]]) -> Table:
    """A two-column table without borders."""
    from rich.table import Table
    from rich.text import Text

    # Text, not str: rich reads [brackets] in a str as markup.
    heading = Text(printable(title))
    table = Table(title=heading, title_justify="left", box=None, show_header=False, padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(printable(name)), Text(printable(value)))
    return table


def print_json(value: Any) -> None:
    """Print a JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
