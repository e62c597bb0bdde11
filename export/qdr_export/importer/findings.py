"""What an import has to say: problems that forbid it, and normalisations with what they change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from qdr_edge.errors import ExportError


@dataclass(frozen=True)
class Problem:
    """A rule that the file breaks.

    Args:
        place: The node, and where it stands in the file.
        found: What is there.
        expected: What would have been right.
        mend: What to do about it.
    """

    place: str
    found: str
    expected: str
    mend: str


@dataclass(frozen=True)
class Normalisation:
    """Something the checkpoint says otherwise than the file.

    Args:
        rule: Stable identifier.
        place: The node.
        what: What was done, with the size of the change.
        exact: No number changes.
    """

    rule: str
    place: str
    what: str
    exact: bool

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


class UnsupportedModelError(ExportError):
    """A file that cannot be imported; the message names the first problem and counts the rest.

    Args:
        problems: Every rule it breaks.
        where: The file.
    """

    def __init__(self, problems: tuple[Problem, ...], *, where: str) -> None:
        self.problems = problems
        first = problems[0]
        more = f" (and {len(problems) - 1} more, listed above)" if len(problems) > 1 else ""
        super().__init__(
            f"{first.place}: {first.found}{more}",
            where=where,
            expected=first.expected,
            fix=first.mend,
        )


class Findings:
    """Collects problems and normalisations while a file is read."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[Problem] = []
        self.normalisations: list[Normalisation] = []

    def problem(self, place: str, found: str, expected: str, mend: str) -> None:
        """Record a broken rule; the same one twice counts once."""
        problem = Problem(place, found, expected, mend)
        if problem not in self.problems:
            self.problems.append(problem)

    def normalised(self, rule: str, place: str, what: str, *, exact: bool) -> None:
        """Record a normalisation."""
        self.normalisations.append(Normalisation(rule, place, what, exact))

    def check(self) -> None:
        """Stop if the file breaks a rule.

        Raises:
            UnsupportedModelError: It does; all of them are listed.
        """
        if self.problems:
            raise UnsupportedModelError(tuple(self.problems), where=self.where)
