"""The manifest: everything a bundle claims, typed, frozen and without floating-point numbers.

A float is written as its `repr` string (`exact_text`), which every reader turns back into the very
same float64; JSON numbers go through each parser's own rounding. docs/bundle-format.md is the
specification.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from qdr_edge.container import MAX_ENTRIES, MAX_ENTRY_BYTES, MAX_MANIFEST_BYTES
from qdr_edge.errors import BundleError, CompatibilityError
from qdr_edge.files import canonical_json
from qdr_edge.labels import LabelSet

if TYPE_CHECKING:
    from qdr_edge.decision import DecisionRule
    from qdr_edge.operating_point import Fitted

FORMAT: Final = "qdr-bundle"
SCHEMA_VERSION: Final = 2
# Schema 1 has no exclusive labels and says less about its thresholds; what it says means the same.
READABLE_VERSIONS: Final = (1, 2)
MAX_TEXT: Final = 4096
MAX_LABELS: Final = 64
MAX_GOLDEN: Final = 64
MAX_IMAGE_SIZE: Final = 4096
MAX_NESTING: Final = 32


def exact_text(value: float) -> str:
    """Return the shortest decimal text that reads back as exactly this float64."""
    return repr(float(value))


def without_floats(value: Any) -> Any:
    """Copy a JSON tree with every float, NumPy's too, replaced by `exact_text`."""
    if isinstance(value, Mapping):
        return {str(key): without_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_floats(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):
        return without_floats(value.item())
    return exact_text(value)


def created_at() -> str:
    """Return the time for `created`: SOURCE_DATE_EPOCH if set, else the clock, in UTC seconds."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_number(text: str) -> str:
    value = float(text)
    if math.isnan(value):
        raise ValueError("NaN is no number here")
    if repr(value) != text:
        raise ValueError(f"write {repr(value)!r}, the shortest exact form")
    return text


def _check_tree(value: JsonValue, depth: int = 0) -> JsonValue:
    if depth > MAX_NESTING:
        raise ValueError(f"nested deeper than {MAX_NESTING}")
    if isinstance(value, float):
        raise ValueError(f"float {value!r}: write it as a string, see exact_text")
    if isinstance(value, dict):
        for item in value.values():
            _check_tree(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_tree(item, depth + 1)
    return value


Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FloatText = Annotated[str, StringConstraints(max_length=40), AfterValidator(_check_number)]
Tree = Annotated[dict[str, JsonValue], AfterValidator(_check_tree)]
Modality = Literal["fundus", "oct"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class Labels(_Part):
    """The vocabulary, in logit order."""

    name: Text
    codes: tuple[Name, ...] = Field(min_length=1, max_length=MAX_LABELS)
    names: tuple[Text, ...] = Field(min_length=1, max_length=MAX_LABELS)
    exclusive: bool = False

    @classmethod
    def of(cls, labels: LabelSet) -> Labels:
        """The manifest's form of a label set."""
        return cls(
            name=labels.name,
            codes=labels.codes,
            names=labels.names,
            exclusive=labels.exclusive,
        )

    def label_set(self) -> LabelSet:
        """The label set these are."""
        return LabelSet(self.name, self.codes, self.names, self.exclusive)


class ImageInput(_Part):
    """The tensor every artefact takes: uint8 [1, 3, size, size]."""

    size: int = Field(ge=8, le=MAX_IMAGE_SIZE)
    name: Literal["pixels"] = "pixels"
    layout: Literal["NCHW"] = "NCHW"
    dtype: Literal["uint8"] = "uint8"
    channels: Literal[3] = 3


class Preprocess(_Part):
    """The preprocessing contract and its hash (`PreprocessSpec.to_dict()` and `.sha256`)."""

    spec: Tree
    sha256: Sha256


class Threshold(_Part):
    """One label's operating point: positive if and only if its score >= `logit`.

    The score is the raw logit, or the log-odds among exclusive labels (`label_scores`). What was
    reached on `split`, and with how many positives, is for people; None where it is not known.
    """

    code: Name
    logit: FloatText
    fitted_for: Text
    split: Text
    confidence_bound: Text = ""
    positives: int | None = Field(default=None, ge=0)
    patients: int | None = Field(default=None, ge=0)
    sensitivity: FloatText | None = None
    lower_bound: FloatText | None = None
    reached: bool | None = None


class Decisions(_Part):
    """From logits to a decision. `gates` is `GateLimits.to_dict()`, floats as text."""

    temperature: FloatText
    thresholds: tuple[Threshold, ...] = Field(min_length=1, max_length=MAX_LABELS)
    gates: Tree
    rejection_rate: FloatText | None = None
    aggregation: Text = "maximum score per label over the images of an eye"

    @classmethod
    def of(
        cls,
        rule: DecisionRule,
        gates: Mapping[str, Any],
        *,
        fitted_for: str,
        split: str,
        confidence_bounds: Mapping[str, str] | None = None,
        fitted: Sequence[Fitted] = (),
        rejection_rate: float | None = None,
    ) -> Decisions:
        """The manifest's form of a decision rule and of gate limits.

        Args:
            rule: temperature and logit thresholds.
            gates: `GateLimits.to_dict()`.
            fitted_for: what the thresholds were chosen to reach, for people.
            split: the split they were chosen on.
            confidence_bounds: by label code, the bound of what was reached, for people.
            fitted: what each label came to.
            rejection_rate: what the gate limits were fitted for.
        """
        bounds = confidence_bounds or {}
        facts = {label.code: without_floats(label.to_dict()) for label in fitted}
        stated = ("positives", "patients", "sensitivity", "lower_bound", "reached")
        thresholds = tuple(
            Threshold(
                code=code,
                logit=exact_text(logit),
                fitted_for=fitted_for,
                split=split,
                confidence_bound=bounds.get(code, ""),
                **({name: facts[code][name] for name in stated} if code in facts else {}),
            )
            for code, logit in zip(rule.labels.codes, rule.logit_thresholds, strict=True)
        )
        temperature = exact_text(rule.temperature)
        return cls(
            temperature=temperature,
            thresholds=thresholds,
            gates=without_floats(gates),
            rejection_rate=None if rejection_rate is None else exact_text(rejection_rate),
        )

    def rule(self, labels: LabelSet) -> DecisionRule:
        """The decision rule, with exactly the floats that were sealed."""
        from qdr_edge.decision import DecisionRule

        thresholds = tuple(float(threshold.logit) for threshold in self.thresholds)
        return DecisionRule(labels, float(self.temperature), thresholds)


class Artefact(_Part):
    """One target's model: which entry, for which runtime, on which machines.

    `requires` names properties of the machine ("x86_64", "vnni"; see target.py). A logit may differ
    from the golden one by `tolerance_steps` times `logit_step`; 0 steps means equal bit for bit.
    """

    entry: Text
    backend: Name
    runtime: Text = ""
    opset: int = Field(ge=1, le=64)
    requires: tuple[Name, ...] = Field(default=(), max_length=16)
    tolerance_steps: int = Field(default=0, ge=0, le=255)
    logit_step: FloatText = "0.0"
    options: dict[Name, Text] = {}

    @property
    def logit_tolerance(self) -> float:
        """Largest absolute difference from a golden logit that the self-test accepts."""
        return self.tolerance_steps * float(self.logit_step) if self.tolerance_steps else 0.0


class GoldenVector(_Part):
    """A known image with all that must come out of it.

    `preprocessed_sha256` is of the uint8 [3, S, S] tensor's bytes, empty if the image cannot be
    read at all. `logits` maps a target to its K logits, empty if a gate rejects the image.
    """

    name: Name
    image: Text
    preprocessed_sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    logits: dict[Name, tuple[FloatText, ...]] = {}
    outcome: Literal["POSITIVE", "NEGATIVE", "UNGRADABLE", "INVALID_INPUT"]
    positives: tuple[Name, ...] = ()


class EntryRecord(_Part):
    """What an entry's bytes must be."""

    size: int = Field(ge=0, le=MAX_ENTRY_BYTES)
    sha256: Sha256


class Manifest(_Part):
    """Everything a bundle claims. `key_id` and `entries` are filled in when it is sealed."""

    format: Literal["qdr-bundle"] = FORMAT
    schema_version: Literal[1, 2] = SCHEMA_VERSION
    bundle_id: Name
    model_version: Name
    security_version: int = Field(default=0, ge=0, le=2**31 - 1)
    key_id: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{16})?$")] = ""
    created: Annotated[
        str, StringConstraints(pattern=r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z$")
    ] = Field(default_factory=created_at)
    modality: Modality
    synthetic: bool
    labels: Labels
    input: ImageInput
    preprocess: Preprocess
    decision: Decisions
    scheme: Tree
    artefacts: dict[Name, Artefact] = Field(min_length=1, max_length=32)
    golden: tuple[GoldenVector, ...] = Field(default=(), max_length=MAX_GOLDEN)
    evidence: Tree = {}
    provenance: Tree = {}
    licence: Text
    proven: bool
    entries: dict[Text, EntryRecord] = Field(default={}, max_length=MAX_ENTRIES)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        count = len(self.labels.codes)
        if len(self.labels.names) != count or len(set(self.labels.codes)) != count:
            raise ValueError("labels: one name per code, no code twice")
        if self.labels.exclusive and (self.schema_version == 1 or count < 2):
            raise ValueError("labels.exclusive: needs schema 2 and two labels")
        if tuple(threshold.code for threshold in self.decision.thresholds) != self.labels.codes:
            raise ValueError("decision.thresholds: one per label, in logit order")
        for vector in self.golden:
            for target, logits in vector.logits.items():
                if target not in self.artefacts or len(logits) != count:
                    raise ValueError(f"golden {vector.name}: {count} logits of known targets only")
            if not set(vector.positives) <= set(self.labels.codes):
                raise ValueError(f"golden {vector.name}: positives must be label codes")
        if self.entries:
            needed = {a.entry for a in self.artefacts.values()} | {g.image for g in self.golden}
            missing = sorted(needed - set(self.entries))
            if missing:
                raise ValueError(f"entries: {missing[0]} is referred to but not listed")
        return self

    def to_bytes(self) -> bytes:
        """The canonical JSON that is signed.

        Raises:
            BundleError: larger than the cap.
        """
        raw = canonical_json(self.model_dump(mode="json"))
        if len(raw) > MAX_MANIFEST_BYTES:
            raise BundleError(
                f"manifest of {len(raw)} bytes is too large",
                expected=f"at most {MAX_MANIFEST_BYTES} bytes",
                fix="move long lists out of `evidence` into an entry of their own",
            )
        return raw

    @classmethod
    def from_bytes(cls, raw: bytes, *, where: str = "") -> Manifest:
        """Parse a manifest's exact bytes.

        Raises:
            CompatibilityError: a schema version this release does not know.
            BundleError: not canonical JSON, an unknown field, a float, a value out of range.
        """
        value = _parse(raw, where)
        version = value.get("schema_version")
        # The type too: JSON's true equals 1 in Python, here and in pydantic's Literal.
        known = type(version) is int and version in READABLE_VERSIONS
        if value.get("format") == FORMAT and not known:
            raise CompatibilityError(
                f"bundle with manifest schema {version!r}",
                where=where,
                expected=f"schema {' or '.join(map(str, READABLE_VERSIONS))}",
                fix="update qdr-edge, or export the bundle again with this release",
            )
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BundleError(
                f"manifest field {'.'.join(map(str, first['loc'])) or '(whole)'}: {first['msg']}",
                where=where,
                expected="a manifest as in docs/bundle-format.md",
                fix="export the bundle again with this release",
            ) from error


def _refuse_number(text: str) -> Any:
    raise ValueError(f"{text} is a floating-point number")


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    if len(raw) > MAX_MANIFEST_BYTES:
        problem = f"{len(raw)} bytes"
    else:
        try:
            value = json.loads(raw, parse_float=_refuse_number, parse_constant=_refuse_number)
            # Re-encoding also catches duplicate keys, which JSON parsers resolve differently.
            if isinstance(value, dict) and canonical_json(value) == raw:
                return value
            problem = "not in canonical form"
        except (ValueError, RecursionError) as error:
            problem = re.sub(r"\s+", " ", str(error))[:200]
    raise BundleError(
        f"manifest cannot be read: {problem}",
        where=where,
        expected=f"canonical JSON without floats, at most {MAX_MANIFEST_BYTES} bytes",
        fix="obtain the bundle again from its maker",
    )
