from __future__ import annotations

import pickle
from pathlib import Path

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline as BeamPipeline
from apache_beam.testing.util import assert_that

from scorers.models.handler import CausalLMHandler, ScoredBatch, ScoringBatch
from scorers.models.loading import LoadedModel
from scorers.models.scoring import score_examples
from scorers.models.settings import ModelSettings
from tests.scorers.toy_models import PAIRS, examples


def test_beam_gives_the_scores_and_stats_of_plain_python(toy: LoadedModel, toy_folder: Path) -> None:
    batch = examples(PAIRS)
    expected, stats = score_examples(toy, batch, ["loss", "ifd"])
    units = [ScoringBatch("a", batch), ScoringBatch("b", batch.slice(2, 1))]

    def check(results: list[ScoredBatch]) -> None:
        assert sorted(result.unit for result in results) == ["a", "b"]
        whole = next(result for result in results if result.unit == "a")
        assert whole.scores.equals(expected)
        assert len(whole) == len(PAIRS)
        assert {**whole.stats, "seconds": 0} == {**stats, "seconds": 0}

    handler = CausalLMHandler(ModelSettings(path=str(toy_folder), device="cpu"), ["loss", "ifd"], threads=2)
    pipeline = BeamPipeline(runner="FnApiRunner", options=PipelineOptions([]))
    scored = pipeline | beam.Create(units) | beam.Reshuffle() | "Score" >> RunInference(handler)
    assert_that(scored, check)
    pipeline.run().wait_until_finish()


def test_a_batch_pickles_as_the_slice_it_is_and_not_as_its_parent() -> None:
    whole = examples(PAIRS * 200)
    data = pickle.dumps(ScoringBatch("a", whole.slice(5, 1)))
    assert len(data) < 3_000
    restored = pickle.loads(data)  # noqa: S301 - our own bytes
    assert (restored.unit, len(restored)) == ("a", 1)
    assert restored.examples.equals(whole.slice(5, 1))


def test_the_handler_pickles_without_its_model(toy_folder: Path) -> None:
    handler = CausalLMHandler(ModelSettings(path=str(toy_folder)), ["loss"])
    assert len(pickle.dumps(handler)) < 1_000
