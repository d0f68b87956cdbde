"""What is sent to a cluster: the graphs of a whole run, translated for Dataflow but not submitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PortableOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.portability.common_urns import resource_hints
from apache_beam.transforms.environments import Environment

from pipelines import stages
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import run
from pipelines.runner import GPU_HINTS, RunnerChoice, choose_runner, run_pipeline
from tests.pipelines.corpus import recipe, write_corpus

IMAGE = "registry.example/winnow:1"
DATAFLOW = [
    "--runner=DataflowRunner",
    "--project=a-project",
    "--region=europe-west4",
    "--temp_location=gs://a-bucket/temp",
    f"--sdk_container_image={IMAGE}",
    "--environment_type=DOCKER",
    f"--environment_config={IMAGE}",
]
PICKLED = ("beam:coder:pickled_python:v1", "beam:coder:fast_primitives:v1")
# What every portable runner knows.
PRIMITIVES = {
    "beam:transform:impulse:v1",
    "beam:transform:pardo:v1",
    "beam:transform:group_by_key:v1",
    "beam:transform:flatten:v1",
    "beam:transform:window_into:v1",
}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The pipelines of a run as the GPU's cluster would get them; they run on this machine besides."""
    folder = tmp_path_factory.mktemp("graphs")
    write_corpus(folder / "data", 60)
    remote = choose_runner(1, DATAFLOW)
    found: list[Any] = []

    def translate(choice: RunnerChoice, build: Any, **settings: Any) -> Any:  # noqa: ANN401 - passed on
        options = remote.options(parallel=True)
        pipeline = beam.Pipeline("FnApiRunner", options)  # Dataflow's own would look for credentials
        build(pipeline)
        image = Environment.from_options(options.view_as(PortableOptions))
        found.append(pipeline.to_runner_api(default_environment=image))
        return run_pipeline(choice, build, **settings)

    hints = remote.model_hints("cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "run_pipeline", translate)
        patch.setattr(RunnerChoice, "model_hints", lambda _, __: hints)
        run(parse_recipe(recipe(folder / "data")), folder / "out", RunnerChoice(), Progress())
    return found


def test_every_step_is_one_that_portable_runners_know(graphs: list[Any]) -> None:
    assert len(graphs) >= 6
    for graph in graphs:
        assert not set(graph.requirements) - {"beam:requirement:pardo:splittable_dofn:v1"}
        steps = graph.components.transforms.values()
        # A composite without parts hands its input on; there is nothing to run.
        own = [s for s in steps if not s.subtransforms and set(s.outputs.values()) - set(s.inputs.values())]
        work = {s.spec.urn: s.unique_name for s in own}
        assert set(work) <= PRIMITIVES, work


def test_no_shuffle_has_a_pickled_key(graphs: list[Any]) -> None:
    keys = {urn for graph in graphs for urn in _key_coders(graph.components)}
    assert keys  # there are shuffles
    assert not keys & set(PICKLED)


def test_workers_run_in_the_image_that_was_named(graphs: list[Any]) -> None:
    environments = [each for graph in graphs for each in graph.components.environments.values()]
    images = {
        beam_runner_api_pb2.DockerPayload.FromString(each.payload).container_image for each in environments
    }
    assert images == {IMAGE}


def test_only_the_step_that_runs_the_model_asks_for_an_accelerator(graphs: list[Any]) -> None:
    accelerator, ram = resource_hints.ACCELERATOR.urn, resource_hints.MIN_RAM_BYTES.urn
    asking = {
        step.unique_name.split("/")[0]
        for graph in graphs
        for step in graph.components.transforms.values()
        if step.environment_id
        and accelerator in graph.components.environments[step.environment_id].resource_hints
    }
    assert asking == {"run the model"}
    hints = [
        dict(environment.resource_hints)
        for graph in graphs
        for environment in graph.components.environments.values()
        if environment.resource_hints
    ]
    assert all(
        h == {accelerator: dict(GPU_HINTS)["accelerator"].encode(), ram: b"16000000000"} for h in hints
    )


def _key_coders(components: Any) -> Iterator[str]:  # noqa: ANN401 - a protocol buffer
    for step in components.transforms.values():
        if step.spec.urn == "beam:transform:group_by_key:v1":
            (collection,) = step.inputs.values()
            pair = components.coders[components.pcollections[collection].coder_id]
            assert pair.spec.urn == "beam:coder:kv:v1"
            yield components.coders[pair.component_coder_ids[0]].spec.urn
