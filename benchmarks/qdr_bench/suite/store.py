"""Groups that were measured, kept so that an interrupted suite goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qdr_edge.files import atomic_write, canonical_json, make_folder, sha256_bytes

FOLDER = "groups"


def key_of(what: Mapping[str, Any]) -> str:
    """A name for a group: the same only if the same is measured on the same software.

    Args:
        what: Everything that decides what is measured, as JSON.
    """
    plain = json.loads(json.dumps(what, default=str))
    return sha256_bytes(canonical_json(plain))[:16]


def keep(folder: Path, key: str, document: Mapping[str, Any]) -> None:
    """Keep a group's document.

    Raises:
        OutputError: It cannot be written.
    """
    make_folder(folder / FOLDER)
    text = json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_write(folder / FOLDER / f"{key}.json", text)


def kept(folder: Path, key: str) -> dict[str, Any] | None:
    """A group's document if it was measured already; one that cannot be read is measured anew."""
    try:
        document = json.loads((folder / FOLDER / f"{key}.json").read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and "rows" in document else None


def merge(
    suite: str, documents: Sequence[Mapping[str, Any]], *, several_counts: bool
) -> dict[str, Any]:
    """One report out of the groups' reports.

    Rows keep their order.

    Args:
        suite: Name of the suite.
        documents: Of the groups, in order; at least one.
        several_counts: Whether the suite has several thread counts: then a row's id says its own.
    """
    merged = dict(documents[0])
    bundles: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    peers: list[dict[str, Any]] = []
    for document in documents:
        count = document["plan"]["threads"]
        mark = f"@{count}" if several_counts else ""
        bundles |= {bundle["name"]: bundle for bundle in document["bundles"]}
        rows += [{**row, "id": row["id"] + mark} for row in document["rows"]]
        peers += [
            {**entry, "row": entry["row"] + mark, "ours": entry["ours"] + mark}
            for entry in document["against_peers"]
        ]
        ratios += [{**ratio, "row": ratio["row"] + mark} for ratio in document["ratios"]]
    merged |= {
        "suite": suite,
        "bundles": list(bundles.values()),
        "rows": rows,
        "ratios": ratios,
        "against_peers": peers,
        "interrupted": any(document["interrupted"] for document in documents),
        "synthetic": any(document["synthetic"] for document in documents),
        "quick": any(document["quick"] for document in documents),
        "state": {
            "before": documents[0]["state"]["before"],
            "after": documents[-1]["state"]["after"],
        },
        "groups": [
            {
                "bundles": [bundle["name"] for bundle in document["bundles"]],
                "plan": document["plan"],
                "state": document["state"],
                "created": document["created"],
            }
            for document in documents
        ],
    }
    return merged
