"""The fuzz target holds on its own seeds in every run, and on a million inputs under `full`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from qdr_edge.files import canonical_json
from tests.attacks.models import model
from tests.fuzz.mutate import mutate_json, mutate_protobuf, parse, write
from tests.fuzz.seeds import write_seeds

ROOT = Path(__file__).parents[2]


def test_the_mutators_keep_the_form() -> None:
    raw = model()
    assert write(parse(raw)) == raw
    changed = {mutate_protobuf(raw, Random(seed), lambda some: some + b"x") for seed in range(200)}
    assert len(changed) > 60
    assert all(one == b"" or parse(one) for one in changed)
    document = canonical_json({"a": {"b": [1, "x"]}})
    for seed in range(200):
        one = mutate_json(document, Random(seed), lambda some: some + b"x")
        assert canonical_json(json.loads(one)) == one


@pytest.mark.parametrize("runs", [2_000, pytest.param(1_000_000, marks=pytest.mark.full)])
def test_no_input_gets_anything_but_a_reading_or_a_clear_error(tmp_path: Path, runs: int) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("NOT FUZZED: atheris is missing, `pip install atheris` (Linux, Python < 3.14)")
    count = write_seeds(tmp_path / "seeds")
    (tmp_path / "corpus").mkdir()
    done = subprocess.run(
        [
            sys.executable, "tests/fuzz/fuzz_bundle.py", str(tmp_path / "corpus"),
            str(tmp_path / "seeds"), f"-runs={runs}", "-max_len=16384", "-seed=1", "-timeout=20",
            "-rss_limit_mb=4096", f"-artifact_prefix={tmp_path}/", "-print_final_stats=1",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    assert executed is not None
    assert int(executed.group(1)) >= runs
    assert count >= 10
