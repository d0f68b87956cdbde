"""The `check` section of a recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from scorers.correctness import Kind

CHECK_COLUMNS = ("answer", "correct", "wrong_calculations", "wrong_calculation", "prompt_overlap")


class CheckSettings(BaseModel):
    """What is read in the text of responses, without any model: pipelines/check.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gold: str | None = Field(
        default=None,
        min_length=1,
        description="field of the input that holds the right answer; null: nothing is called right or wrong",
    )
    kind: Kind = Field(
        default="math",
        description="how answers are read and compared: math (by value), exact (by words), choice (A to E)",
    )
