"""What a CI reads: JUnit XML, and Markdown for its summary page."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from qdr_bench.compare.judge import Change, Word
from qdr_bench.compare.reading import Differences

MARKS = {Word.SAME: "=", Word.BETTER: "+", Word.WORSE: "−", Word.CANNOT_TELL: "?"}


def figures(change: Change) -> str:
    """One figure in both reports, and how they relate."""
    unit = change.metric.unit
    if change.metric.relative:
        relation = f"× {change.value:.3f} [{change.low:.3f}, {change.high:.3f}]"
    else:
        relation = f"{change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
    return f"{change.before:.4g} → {change.after:.4g} {unit}, {relation}"


def junit(changes: Sequence[Change], most: float | None) -> bytes:
    """A test case for each figure: failed if worse by more than `most`, skipped if nobody can tell.

    Args:
        changes: All figures.
        most: Largest loss that passes; None lets none fail.
    """
    failed = [change for change in changes if most is not None and change.fails(most)]
    unknown = [change for change in changes if change.word is Word.CANNOT_TELL]
    suite = ElementTree.Element(
        "testsuite",
        name="qdr-edge compare",
        tests=str(len(changes)),
        failures=str(len(failed)),
        skipped=str(len(unknown)),
        errors="0",
    )
    for change in changes:
        case = ElementTree.SubElement(
            suite, "testcase", classname=change.row, name=change.metric.name, time="0"
        )
        if change in failed:
            problem = ElementTree.SubElement(case, "failure", message=figures(change))
            problem.text = f"worse than before: {figures(change)}"
        elif change.word is Word.CANNOT_TELL:
            ElementTree.SubElement(case, "skipped", message=change.why)
        output = ElementTree.SubElement(case, "system-out")
        output.text = f"{change.word}: {figures(change)}"
    ElementTree.indent(suite)
    content: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def markdown(
    changes: Sequence[Change], around: Differences, lonely: Sequence[str], most: float | None
) -> str:
    """A table for a summary page."""
    lines = ["## qdr-edge compare", "", "| row | figure | before → after | |", "|---|---|---|---|"]
    for change in changes:
        failed = " **fails**" if most is not None and change.fails(most) else ""
        word = f"{MARKS[change.word]} {change.word}{failed}"
        lines.append(
            f"| {_cell(change.row)} | {change.metric.name} | {figures(change)} | {_cell(word)} |"
        )
    notes = [*(f"machine: {line}" for line in around.machine), *around.software, *lonely]
    doubts = sorted({f"{change.row}: {change.why}" for change in changes if change.why})
    lines += ["", *(f"- {_cell(note)}" for note in [*notes, *doubts]), ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
