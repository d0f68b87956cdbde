"""The `model:` section of a recipe: which model scores, in what precision, and what it does with long rows.

Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelSettings(BaseModel):
    """One causal language model, as a recipe states it.

    Only safetensors weights are read, and code that comes with a model is never run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, description="folder or Hugging Face hub id of a causal language model")
    revision: str | None = Field(
        default=None, description="branch, tag or commit on the hub; a folder has none; null: the newest"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="precision of weights and activations; auto: float32 on CPU, bfloat16 on CUDA",
    )
    device: Literal["auto", "cpu", "cuda", "spread"] = Field(
        default="auto",
        description="auto: CUDA where there is one, a device for each worker process; spread: one model "
        "over all devices of the machine, for one that fits on none of them (needs the "
        "accelerate package)",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=2,
        description="most tokens of prompt and response together; null: the model's context",
    )
    on_overflow: Literal["drop", "keep"] = Field(
        default="drop",
        description="a row above max_tokens: drop gives it no scores, keep cuts its response and flags it",
    )
    on_control_tokens: Literal["escape", "refuse", "flag"] = Field(
        default="escape",
        description="a row whose data holds the text of a control token, such as <|im_end|>: escape reads "
        "it as plain text, refuse gives the row no scores, flag lets it become the token, as "
        "most trainers do; the column control_text marks such rows either way",
    )
    chat_template: str = Field(
        default="auto",
        min_length=1,
        description="auto: the tokenizer's, or plain where it has none; plain: our stated layout; else the "
        "path of a Jinja file",
    )
    loss_on: Literal["last", "all"] = Field(
        default="last",
        description="which assistant turns are scored and trained on: the last one, or every one",
    )
    score_end: bool = Field(
        default=True,
        description="whether the end-of-turn token after a response counts for its scores; it is trained on"
        " either way",
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens in one forward call at most, padding included; null: chosen for the device",
    )
    compile: bool = Field(
        default=False,
        description="whether the model's layers are compiled (torch.compile): faster, after 10 to 20 "
        "seconds in each worker process; on CPU a C++ compiler is needed",
    )

    @model_validator(mode="after")
    def _is_on_one_device(self) -> Self:
        if self.compile and self.device == "spread":
            raise ValueError("compile: true is for a model on one device; with device: spread leave it out")
        return self


class EmbeddingSettings(BaseModel):
    """A model that turns texts into vectors, as a recipe states it.

    Three kinds are told apart by the files of the folder: static embeddings (model2vec),
    sentence-transformers, and causal language models, whose last hidden states are averaged. Only safetensors
    weights are read, and code that comes with a model is never run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, description="folder or Hugging Face hub id of an embedding model or LM")
    revision: str | None = Field(
        default=None, description="branch, tag or commit on the hub; a folder has none; null: the newest"
    )
    scope: Literal["prompt", "response", "both"] = Field(
        default="both", description="text of a row that is embedded: the prompt, the response, or both"
    )
    max_tokens: int = Field(
        default=512, ge=1, description="longer texts are cut to so many tokens, and counted"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="precision of a transformer; auto: float32 on CPU, bfloat16 on CUDA"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where the model runs; auto: on CUDA where there is one"
    )
    batch_tokens: int = Field(
        default=4096, ge=1, description="tokens in one forward call at most, padding included"
    )

    @property
    def model(self) -> ModelSettings:
        """The same folder as a language model; plain text is embedded, so no template is used."""
        return ModelSettings(
            path=self.path,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            chat_template="plain",
        )
