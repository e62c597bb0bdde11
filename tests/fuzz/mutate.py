"""Changes that keep the form: one node of a protobuf or JSON tree, lengths and order made right.

Bytes changed at random hardly ever get past a length; these reach what stands behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from qdr_edge.files import canonical_json
from tests.attacks.models import varint

Mutate = Callable[[bytes], bytes]
# (field number, wire type, value): an integer, the bytes of a leaf, or a list of fields.
Field = tuple[int, int, Any]
_DEEPEST = 8


def mutate_protobuf(raw: bytes, random: Random, mutate: Mutate) -> bytes:
    """Change one field somewhere in a message and write the whole again."""
    fields = parse(raw)
    if not fields:
        return mutate(raw)
    level = fields
    while True:
        index = random.randrange(len(level))
        number, wire, value = level[index]
        if isinstance(value, list) and value and random.random() < 0.8:
            level = value
            continue
        break
    choice = random.randrange(6)
    if choice == 0:
        level[index] = (random.choice([number + 1, random.randrange(1, 30)]), wire, value)
    elif choice == 1:
        level.insert(random.randrange(len(level) + 1), level[index])
    elif choice == 2:
        del level[index]
    elif choice == 3:
        # Nothing at all is a valid message of every type.
        content = random.choice([b"", mutate(b"/etc/passwd")])
        level.insert(index, (random.randrange(1, 30), 2, content))
    elif isinstance(value, int):
        special = (0, 1, 2, 1 << 28, 1 << 32, (1 << 64) - 1, random.getrandbits(64))
        level[index] = (number, wire, random.choice(special))
    else:
        changed = mutate(write(value) if isinstance(value, list) else value)
        width = {1: 8, 5: 4}.get(wire, len(changed))
        level[index] = (number, wire, changed[:width].ljust(width, b"\0"))
    return write(fields)


def mutate_json(raw: bytes, random: Random, mutate: Mutate) -> bytes:
    """Change one value somewhere in a document and write it in canonical form."""
    try:
        value = json.loads(raw)
    except ValueError:
        return mutate(raw)
    place: Any = [value]
    key: Any = 0
    while isinstance(place[key], dict | list) and place[key] and random.random() < 0.85:
        place = place[key]
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
    old = place[key]
    if random.random() < 0.2 and isinstance(place, dict):
        del place[key]
    elif random.random() < 0.5 and isinstance(old, str):
        place[key] = mutate(old.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    else:
        special = (None, True, 0, -1, 2**31, 2**64, "", "nan", "-0.0", [], {}, [old], {"x": old})
        place[key] = random.choice(special)
    try:
        return canonical_json(value)
    except (TypeError, ValueError):
        return mutate(raw)


def parse(raw: bytes, depth: int = 0) -> list[Field]:
    """The fields of a message; [] if the bytes are none."""
    fields: list[Field] = []
    cursor = 0
    try:
        while cursor < len(raw):
            key, cursor = _number(raw, cursor)
            number, wire = key >> 3, key & 7
            if not number or wire not in (0, 1, 2, 5):
                return []
            if wire == 0:
                value, cursor = _number(raw, cursor)
                fields.append((number, wire, value))
                continue
            length = {1: 8, 5: 4}.get(wire)
            if length is None:
                length, cursor = _number(raw, cursor)
            content = raw[cursor : cursor + length]
            cursor += length
            inner = parse(content, depth + 1) if wire == 2 and depth < _DEEPEST else []
            # Text may look like a message; written again it is the same bytes either way.
            fields.append((number, wire, inner if inner and write(inner) == content else content))
    except IndexError:
        return []
    return fields if cursor == len(raw) else []


def write(fields: list[Field]) -> bytes:
    """The bytes of a message."""
    out = b""
    for number, wire, value in fields:
        out += varint(number << 3 | wire)
        if isinstance(value, int):
            out += varint(value)
        else:
            content = write(value) if isinstance(value, list) else value
            out += (varint(len(content)) if wire == 2 else b"") + content
    return out


def _number(raw: bytes, cursor: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[cursor]
        cursor += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, cursor
        shift += 7
