"""Golden vectors: images a device runs at every start, with all that must come out.

Gradable pictures are validation images, decoded and encoded again as PNG: nothing of the original
file (names, dates, camera, location) comes along. They still show what they show: a bundle trained
on patients' images holds patients' images. The ungradable and the invalid one are drawn here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from qdr_edge.decision import Decision, DecisionRule, Outcome, decide, rejected
from qdr_edge.errors import ExportError, ImageError
from qdr_edge.files import sha256_bytes
from qdr_edge.gate import GateLimits, check
from qdr_edge.manifest import GoldenVector, exact_text
from qdr_edge.preprocess import PreprocessSpec, decode, load_image
from qdr_export.run_folder import Student

GRADABLE_IMAGES = 4
# Candidates looked at for each kind of decision; the first that fits is taken.
_CANDIDATES = 24

Pixels = NDArray[np.uint8]
Infer = Callable[[Pixels], NDArray[np.float32]]


@dataclass(frozen=True)
class GoldenSet:
    """Golden vectors and the images they refer to."""

    vectors: tuple[GoldenVector, ...]
    entries: Mapping[str, bytes]


@dataclass(frozen=True)
class _Seen:
    """An encoded image and what the pipeline makes of it.

    Args:
        margin: By how much every logit may change without another decision.
    """

    image: bytes
    tensor: Pixels | None
    decision: Decision
    margin: float = 0.0


def make_golden(
    student: Student,
    rule: DecisionRule,
    limits: GateLimits,
    reference: Infer,
    targets: Mapping[str, Infer],
    tolerance: float,
) -> GoldenSet:
    """Choose validation images, and record what every target answers.

    Args:
        student: Its validation images are taken from.
        rule: The frozen operating point.
        limits: The gate.
        reference: uint8 [N, 3, S, S] → logits [N, K], of the reference.
        targets: The same for every target; one that cannot run here is given the reference.
        tolerance: By how much a target's logits may differ: images whose decision that would change
            are taken only where there are no others.

    Raises:
        ExportError: No validation image passes the gate.
    """
    spec = student.checkpoint.preprocess
    look = _Pipeline(spec, rule, limits, reference)
    chosen = _gradable(student, look, tolerance)
    if not chosen:
        raise ExportError(
            "no validation image passes the image-quality gate",
            where=student.samples.source,
            expected="at least one gradable image for the golden vectors",
            fix="look at the images with `qdr-edge data`, or give other validation images",
        )
    pictures = list(chosen.items())
    ungradable = _ungradable([seen.image for seen in chosen.values()], look)
    pictures += [("ungradable", ungradable), ("invalid", _invalid(look))]
    vectors, entries = [], {}
    for name, seen in pictures:
        suffix = "bin" if name == "invalid" else "png"
        entry = f"golden/{name}.{suffix}"
        entries[entry] = seen.image
        vectors.append(
            GoldenVector(
                name=name,
                image=entry,
                preprocessed_sha256=(
                    sha256_bytes(seen.tensor.tobytes()) if seen.tensor is not None else ""
                ),
                logits=_recorded(seen, targets),
                # The cast is checked by the manifest: a FAULT is no golden outcome.
                outcome=seen.decision.outcome.value,  # type: ignore[arg-type]
                positives=tuple(label.code for label in seen.decision.findings),
            )
        )
    return GoldenSet(tuple(vectors), entries)


class _Pipeline:
    """The device's path from image bytes to a decision, with the reference as its runtime."""

    def __init__(
        self, spec: PreprocessSpec, rule: DecisionRule, limits: GateLimits, infer: Infer
    ) -> None:
        self.spec = spec
        self._rule = rule
        self._limits = limits
        self._infer = infer

    def outcome(self, picture: Pixels) -> Outcome | None:
        """What the gate says of a decoded picture; None if it may be decided on."""
        tensor = load_image(picture, self.spec)
        return check(tensor, self.spec.modality, self._limits).outcome

    def __call__(self, image: bytes) -> _Seen:
        modality = self.spec.modality
        try:
            tensor = load_image(image, self.spec)
        except ImageError as error:
            return _Seen(image, None, rejected(Outcome.INVALID_INPUT, error.what, modality))
        gate = check(tensor, modality, self._limits)
        if gate.outcome is not None:
            return _Seen(image, tensor, rejected(gate.outcome, gate.reason, modality))
        logits = self._infer(tensor[None])[0]
        decision = decide(logits, self._rule, modality)
        return _Seen(image, tensor, decision, _margin(decision, self._rule))


def _recorded(seen: _Seen, targets: Mapping[str, Infer]) -> dict[str, tuple[str, ...]]:
    if seen.tensor is None or seen.decision.outcome not in (Outcome.POSITIVE, Outcome.NEGATIVE):
        return {}
    tensor = seen.tensor[None]
    return {
        name: tuple(exact_text(value) for value in infer(tensor)[0])
        for name, infer in targets.items()
    }


def _margin(decision: Decision, rule: DecisionRule) -> float:
    results = zip(decision.labels, rule.logit_thresholds, strict=True)
    nearest = min(abs(label.score - threshold) for label, threshold in results)
    # Exclusive labels are scored against each other: both sides may change.
    return nearest / 2 if rule.labels.exclusive else nearest


def _gradable(student: Student, look: _Pipeline, tolerance: float) -> dict[str, _Seen]:
    """Up to four images, positive and negative in turn where both occur."""
    found: dict[Outcome, list[_Seen]] = {Outcome.POSITIVE: [], Outcome.NEGATIVE: []}
    half = GRADABLE_IMAGES // 2
    for sample in student.samples.select(split="val").samples[:_CANDIDATES]:
        seen = look(encode(decode(sample.file, look.spec), _side(look.spec)))
        if seen.decision.outcome in found:
            found[seen.decision.outcome].append(seen)
        clear = [sum(_is_clear(one, tolerance) for one in kind) for kind in found.values()]
        if min(clear) >= half:
            break
    positive, negative = (_clear_first(kind, tolerance) for kind in found.values())
    # What one kind lacks the other fills up.
    keep = {
        "positive": positive[: max(half, GRADABLE_IMAGES - len(negative))],
        "negative": negative[: max(half, GRADABLE_IMAGES - len(positive))],
    }
    return {f"{kind}-{i}": seen for kind, some in keep.items() for i, seen in enumerate(some)}


def _side(spec: PreprocessSpec) -> int:
    """Longest side of a golden image: a little more than the network's, so that it is scaled down
    as a camera's picture is, and yet is read quickly at every power-on."""
    return spec.size * 5 // 4


def _is_clear(seen: _Seen, tolerance: float) -> bool:
    """Whether its decision holds whatever a target's tolerance allows."""
    return seen.margin > tolerance or tolerance == 0


def _clear_first(seen: list[_Seen], tolerance: float) -> list[_Seen]:
    """Images of clear decision in their order, then the others, the widest margin first."""
    clear = [one for one in seen if _is_clear(one, tolerance)]
    rest = [one for one in seen if not _is_clear(one, tolerance)]
    return clear + sorted(rest, key=lambda one: -one.margin)


def encode(rgb: Pixels, longest_side: int) -> bytes:
    """PNG of a picture, no larger than `longest_side`, without metadata."""
    import cv2

    scale = longest_side / max(rgb.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
    done, content = cv2.imencode(
        ".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9]
    )
    if not done:
        raise ExportError("a golden image cannot be encoded as PNG", expected="an 8-bit picture")
    return bytes(content.tobytes())


def _ungradable(images: list[bytes], look: _Pipeline) -> _Seen:
    """A drawn picture that the gate calls ungradable; a spoiled one of `images` if none is."""
    spoiled = (picture for image in images for picture in _spoiled(decode(image, look.spec)))
    for picture in chain(_drawn(_side(look.spec)), spoiled):
        # PNG loses nothing: what the gate says of the pixels it will say of the file.
        if look.outcome(picture) is Outcome.UNGRADABLE:
            seen = look(encode(picture, max(picture.shape)))
            if seen.decision.outcome is Outcome.UNGRADABLE:
                return seen
    raise ExportError(
        "the image-quality gate calls no spoiled image ungradable",
        expected="a gate that rejects a blurred, dark, bright or noisy picture",
        fix="give unusable validation images the grade 3 in a column `quality`: the gate is not "
        "fitted on those",
    )


def _drawn(side: int) -> Iterator[Pixels]:
    """Dim discs of a regular pattern, by degrees: structure enough, light too little.

    No patient is in them.
    """
    y, x = np.mgrid[:side, :side] / side - 0.5
    lit = np.hypot(x, y) < 0.45
    for waves in (12, 16, 20, 24, 10, 8):
        pattern = np.sin(2 * np.pi * waves * x) * np.sin(2 * np.pi * waves * y)
        for level in (20, 28, 36, 44, 30, 52):
            for share in (1.0, 0.7, 0.5):
                gray = np.where(lit, level + share * level * pattern, 0)
                tint = gray[..., None] * np.array([1.2, 0.7, 0.4])
                yield np.clip(np.rint(tint), 0, 255).astype(np.uint8)


def _spoiled(rgb: Pixels) -> Iterator[Pixels]:
    """The picture blurred and darkened by degrees, then washed out, then noisy.

    By degrees, because a gate calls a picture spoiled beyond recognition invalid, not ungradable.
    """
    import cv2

    side = max(rgb.shape)
    for share in (250, 160, 120, 100, 80, 64, 50, 40, 32, 25):
        blurred = cv2.GaussianBlur(rgb, (0, 0), side / share).astype(np.float32)
        for light in (1.0, 0.7, 0.5, 0.35):
            yield (blurred * light).astype(np.uint8)
    for light in (0.5, 0.35, 0.25, 0.15):
        yield (rgb * light).astype(np.uint8)
    for wash in (0.5, 0.7, 0.85):
        yield (rgb * (1 - wash) + 255 * wash).astype(np.uint8)
    random = np.random.default_rng(0)
    for strength in (20, 40, 80):
        noisy = rgb + random.normal(0, strength, rgb.shape)
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def _invalid(look: _Pipeline) -> _Seen:
    image = encode(next(_drawn(look.spec.size)), look.spec.size)
    for broken in (image[: len(image) // 2], image[:64], b"this is not an image\n"):
        seen = look(broken)
        if seen.decision.outcome is Outcome.INVALID_INPUT:
            return seen
    raise ExportError("the decoder accepts bytes that are no image", expected="INVALID_INPUT")
