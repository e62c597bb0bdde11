"""Training state on disk: a safetensors file and the JSON that names it, replaced as one.

`NAME.json` is the point of commit: it names the tensor file by its hash, so that a kill at any
moment leaves the old pair or the new one. No pickle: reading a state runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from qdr_edge.errors import CheckpointError
from qdr_edge.files import atomic_write, sha256_bytes

_Json = dict[str, Any]


def save_state(
    folder: Path, name: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> str:
    """Write a state; the former one stays whole until the new one is.

    Returns:
        SHA-256 of the tensor file.

    Raises:
        OutputError: The folder cannot be written.
    """
    content = save({key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()})
    digest = sha256_bytes(content)
    file = f"{name}-{digest[:12]}.safetensors"
    atomic_write(folder / file, content)
    entry = {"tensors": {"file": file, "sha256": digest}, "values": dict(values)}
    atomic_write(folder / f"{name}.json", json.dumps(entry, indent=1, allow_nan=False))
    for stale in folder.glob(f"{name}-????????????.safetensors"):
        if stale.name != file:
            stale.unlink()
    return digest


def has_state(folder: Path, name: str) -> bool:
    """Whether a state was committed."""
    return (folder / f"{name}.json").is_file()


def drop_state(folder: Path, name: str) -> None:
    """Remove a state that nothing needs any more."""
    (folder / f"{name}.json").unlink(missing_ok=True)
    for file in folder.glob(f"{name}-????????????.safetensors"):
        file.unlink()


def state_sha256(folder: Path, name: str) -> str:
    """SHA-256 of a state's tensors, checked.

    Raises:
        CheckpointError: As `load_state`.
    """
    load_state(folder, name)
    entry = json.loads((folder / f"{name}.json").read_bytes())
    return str(entry["tensors"]["sha256"])


def load_state(folder: Path, name: str) -> tuple[dict[str, Tensor], _Json]:
    """Read a state.

    Raises:
        CheckpointError: A file is missing, damaged or not what was committed.
    """
    path = folder / f"{name}.json"
    try:
        entry = json.loads(path.read_bytes())
        file = folder / Path(entry["tensors"]["file"]).name
        content = file.read_bytes()
        if sha256_bytes(content) != entry["tensors"]["sha256"]:
            raise ValueError(f"{file.name} has another SHA-256 than {path.name} says")
        return load(content), entry["values"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"training state is damaged: {error}",
            where=str(path),
            expected="the files as training left them",
            fix=f"delete {folder} to train this stage again",
        ) from error


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], _Json]:
    """The state of an optimizer as tensors and plain values."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, _Json] = {}
    for index, entry in state["state"].items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    return tensors, {"groups": state["param_groups"], "plain": plain}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: _Json
) -> None:
    """Put back what `pack_optimizer` took."""
    state: dict[int, _Json] = {int(i): dict(entry) for i, entry in values["plain"].items()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Laid out in memory as the parameter: files hold rows, networks may hold channels last.
            tensor = torch.empty_like(parameter, device=tensor.device).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": values["groups"]})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under a common name."""
    return {f"{prefix}/{key}": tensor for key, tensor in tensors.items()}


def of_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a common name, without it."""
    start = f"{prefix}/"
    return {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
