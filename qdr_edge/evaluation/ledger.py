"""How often a test split was looked at: a line for each evaluation, never taken back.

Who looks at the test split, changes something and looks again has made a validation split of it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from qdr_edge import __version__
from qdr_edge.errors import OutputError
from qdr_edge.evaluation.subject import Subject

FILE = "evaluations.jsonl"


def record(subject: Subject, levels: Sequence[str], by: Sequence[str]) -> dict[str, Any]:
    """Note an evaluation, and say what was evaluated there before.

    Args:
        subject: What is evaluated.
        levels: At which levels.
        by: By which columns.

    Returns:
        A JSON object: the file, and how many evaluations of these very images stand in it from
        before, how many of them of this very artefact.

    Raises:
        OutputError: It cannot be written: an evaluation that leaves no trace is not made.
    """
    path = subject.folder / FILE
    same_images = ("modality", "split", "data_sha256")
    entry = {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tool_version": __version__,
        "kind": subject.facts["kind"],
        "name": subject.name,
        "modality": subject.modality,
        "split": subject.split,
        "data_sha256": subject.samples.sha256,
        "images": len(subject.samples),
        "artefact_sha256": subject.artefact_sha256,
        "bundle_id": subject.bundle_id,
        "target": subject.facts.get("target", ""),
        "levels": list(levels),
        "by": list(by),
    }
    try:
        with path.open("a+", encoding="utf-8") as handle:
            # Two evaluations at once must each see the other, in one order.
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            before = [
                earlier
                for earlier in map(_parsed, handle)
                if all(earlier.get(key) == entry[key] for key in same_images)
            ]
            handle.write(json.dumps(entry, sort_keys=True) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(
            f"the evaluation cannot be recorded: {error}",
            where=str(path),
            expected="a file to append one line to",
            fix="make the folder writable: each look at a test split is counted",
        ) from error
    same = sum(earlier.get("artefact_sha256") == subject.artefact_sha256 for earlier in before)
    return {"file": str(path), "before": len(before), "before_same_artefact": same}


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}  # a line cut short by a power cut is still a line
    return value if isinstance(value, dict) else {}
