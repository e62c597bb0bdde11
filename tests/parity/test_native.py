"""The native form: libqdr computes every tensor of the reference, on every instruction set here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.errors import BackendError, BundleError, ExportError
from qdr_edge.runtime import libqdr, native
from qdr_edge.runtime.native import NativeSession
from qdr_edge.scheme import EXACT, EXACT_WIDE, PORTABLE, U8, QuantScheme
from qdr_export.emit.native import emit, steps_of
from qdr_export.emit.native.memory import aligned, arena_of
from qdr_export.emit.native.writer import write
from qdr_export.graph.canonical import build_canonical
from qdr_export.reference import Reference
from tests.networks import FAMILIES, checkpoint, from_sketch, images
from tests.sketches import OPERATORS, random_network

pytestmark = pytest.mark.skipif(
    not native.availability().ok, reason=f"libqdr is not built: {native.availability().reason}"
)


def isas(plan: bytes) -> Iterator[str]:
    """The instruction sets that can run a plan here."""
    for isa in [name for name in libqdr.ISAS if name != "best"]:
        session = NativeSession(plan, 1, {"isa": isa})
        try:
            side = int(session._plan.side)
            session.infer(np.zeros((1, 3, side, side), np.uint8))
        except BackendError:
            continue
        finally:
            session.close()
        yield isa


def assert_equal(made: Checkpoint, pixels: NDArray[np.uint8], threads: int = 1) -> None:
    """Logits, and the codes of every tensor that is kept where nothing is fused."""
    canonical = build_canonical(made)
    reference = Reference(canonical)
    expected, kept = reference.infer(pixels), reference.activations(pixels)
    steps = steps_of(canonical, fused=False)
    names = list(steps.tensors)
    fused, whole = emit(canonical), write(steps)
    tried = list(isas(fused))
    assert "plain" in tried
    for isa in tried:
        session = NativeSession(fused, threads, {"isa": isa})
        np.testing.assert_array_equal(session.infer(pixels), expected, isa)
        session.close()
        session = NativeSession(whole, threads, {"isa": isa})
        for row, image in enumerate(pixels[:2]):
            found: dict[str, NDArray[np.int16]] = {}
            session.watch(image, lambda number, codes, to=found: to.update({names[number]: codes}))
            compared = set(found) - {"pixels as codes"}
            assert compared == set(steps.tensors) - {"pixels as codes"}
            for name in compared:
                codes = kept[name][row].astype(np.int16)
                np.testing.assert_array_equal(found[name].reshape(codes.shape), codes, name)
        session.close()


@pytest.mark.parametrize("scheme", [EXACT, EXACT_WIDE], ids=lambda s: s.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_the_references(family: str, scheme: QuantScheme) -> None:
    assert_equal(checkpoint(family, scheme=scheme), images(6))


@pytest.mark.parametrize("size", [72, 96, 160])
@pytest.mark.parametrize("family", ["resnet", "mobilenet"])
def test_at_other_sizes_and_with_more_threads(family: str, size: int) -> None:
    for threads in (1, 2, 3):
        assert_equal(checkpoint(family, 3, size=size), images(2, size), threads)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator(name: str) -> None:
    assert_equal(from_sketch(OPERATORS[name](0), size=32), images(4, 32))


# ONNX's own evaluator, which calibrates the sketch, overflows where a sigmoid is 0.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_networks(data: st.DataObject) -> None:
    operators, seed = data.draw(st.integers(1, 7)), data.draw(st.integers(0, 99))
    sketch = random_network(lambda some: data.draw(st.sampled_from(some)), seed, operators)
    try:
        made = from_sketch(sketch, size=32)
        emit(build_canonical(made))
    except ExportError:
        reject()  # scales so far apart that no integer form holds the sums: said at export
    assert_equal(made, images(2, 32))


def test_an_addition_joins_the_convolution_before_it() -> None:
    canonical = build_canonical(checkpoint("resnet"))
    kinds = [step.kind for step in steps_of(canonical).steps]
    assert "add" not in kinds
    assert sum(step.addition is not None for step in steps_of(canonical).steps) > 0
    assert "add" in [step.kind for step in steps_of(canonical, fused=False).steps]


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_that_live_together_share_no_byte(family: str) -> None:
    plan = steps_of(build_canonical(checkpoint(family)))
    offsets, size = arena_of(plan)
    alive: set[str] = set()
    for index, step in enumerate(plan.steps):
        later = {name for s in plan.steps[index:] for name in s.inputs}
        alive = {name for name in alive if name in later} | {step.output or ""} - {""}
        ranges = sorted((offsets[n], offsets[n] + plan.tensors[n].bytes) for n in alive)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(ranges))
    assert max(offsets[n] + aligned(plan.tensors[n].bytes) for n in offsets) == size
    assert size < sum(tensor.bytes for tensor in plan.tensors.values())


@pytest.mark.parametrize("scheme", [PORTABLE, U8], ids=lambda s: s.name)
def test_free_scales_are_refused(scheme: QuantScheme) -> None:
    with pytest.raises(ExportError, match="integers only") as caught:
        emit(build_canonical(checkpoint("student", scheme=scheme)))
    assert "scheme: exact" in str(caught.value)


def test_wide_weights_do_not_run_on_avx2_alone() -> None:
    plan = emit(build_canonical(checkpoint("student", scheme=EXACT_WIDE)))
    session = NativeSession(plan, 1, {"isa": "avx2"})
    with pytest.raises(BackendError, match="AVX2"):
        session.infer(images(1))
    session.close()


def test_damaged_plans_are_refused() -> None:
    plan = emit(build_canonical(checkpoint("mobilenet")))
    for cut in [*range(0, 2000, 7), len(plan) - 1]:
        with pytest.raises(BundleError, match="refuses the plan"):
            NativeSession(plan[:cut], 1, {})
    with pytest.raises(BundleError):
        NativeSession(plan + b"\0", 1, {})
    with pytest.raises(BundleError):
        NativeSession(b"QDRPLAN2" + plan[8:], 1, {})


def test_wrong_words_are_refused_or_harmless() -> None:
    """Every word of the records, set to what a hostile writer would try."""
    plan = emit(build_canonical(checkpoint("mobilenet")))
    steps = steps_of(build_canonical(checkpoint("mobilenet")))
    words = 16 + 8 * len(steps.tensors) + 28 * len(steps.steps)
    pixels, refused = images(1), 0
    for word in range(2, words):
        value = int.from_bytes(plan[4 * word : 4 * word + 4], "little")
        for changed in {value + 1, value - 1, 0, 2**31 - 1, 2**32 - 1, value * 2} - {value}:
            hostile = bytearray(plan)
            hostile[4 * word : 4 * word + 4] = (changed % 2**32).to_bytes(4, "little")
            try:
                session = NativeSession(bytes(hostile), 1, {})
            except BundleError:
                refused += 1
                continue
            if word % 5 == 0:
                session.infer(pixels[:, :, : int(session._plan.side), : int(session._plan.side)])
            session.close()
    assert refused > words


def test_what_is_asked_for_wrongly_is_named() -> None:
    plan = emit(build_canonical(checkpoint("student")))
    with pytest.raises(BackendError, match="one of best, plain"):
        NativeSession(plan, 1, {"isa": "mmx"})
    session = NativeSession(plan, 1, {})
    with pytest.raises(BackendError, match="images are"):
        session.infer(images(1, 32))
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.infer(images(1))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(libqdr.VARIABLE, "/nowhere/libqdr.so")
    libqdr.library.cache_clear()
    try:
        here = native.availability()
        assert not here.ok
        assert "/nowhere/libqdr.so" in here.reason
        assert "cmake" in here.install
    finally:
        monkeypatch.undo()
        libqdr.library.cache_clear()
