"""What the page is made of: cards with a table or drawings, in sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One cell of a table: its text, and what is smaller beneath it."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Heading:
    """The head of a column; figures are set to the right."""

    name: str
    number: bool = True


@dataclass(frozen=True)
class Table:
    """A table whose rows begin with their own head."""

    headings: Sequence[Heading]
    rows: Sequence[Sequence[Entry]]


@dataclass(frozen=True)
class Drawing:
    """Inline SVG, trusted, with what stands above it."""

    svg: str
    title: str = ""


@dataclass(frozen=True)
class Card:
    """A part of the page with a title.

    Args:
        title: In a few words.
        note: How to read it.
        table: Figures.
        drawings: Plots.
        facts: Names and values.
        points: Sentences.
        after: What else must be known.
        wide: Whether it takes the whole width.
    """

    title: str
    note: str = ""
    table: Table | None = None
    drawings: Sequence[Drawing] = ()
    facts: Sequence[tuple[str, str]] = ()
    points: Sequence[str] = ()
    after: str = ""
    wide: bool = True


@dataclass(frozen=True)
class Tile:
    """One large figure."""

    name: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True)
class Section:
    """A headed part of the page; without cards it is left out."""

    anchor: str
    title: str
    note: str = ""
    tiles: Sequence[Tile] = ()
    cards: Sequence[Card] = field(default_factory=tuple)


def headings(*names: str, text: Sequence[str] = ()) -> tuple[Heading, ...]:
    """Column heads; the first, and those named in `text`, hold words."""
    return tuple(
        Heading(name, number=place > 0 and name not in text) for place, name in enumerate(names)
    )


def plots(title: str, note: str, svgs: Sequence[str]) -> list[Card]:
    """A card of plots, if there are any."""
    drawn = [Drawing(svg) for svg in svgs if svg]
    return [Card(title, note, drawings=drawn, wide=False)] if drawn else []
