"""What every part of a recipe is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and does not guess types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
