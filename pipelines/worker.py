"""A Python worker that the engine starts as a plain process, where there are no containers.

For `--environment_type=PROCESS`: the engine (Flink, Prism) runs a command on each of its machines and tells
it where the rest is to be asked for. Beam's own program for this lives in its container images only; its
worker pool (`EXTERNAL`) can be shared by two Flink TaskManagers only until one of them stops its workers,
which then stops the other's too (both call theirs "1-1"; Beam 2.77).

A command for it is a script of one line on every machine, and winnow is installed there:

    exec /opt/winnow/bin/python -m pipelines.worker "$@"
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any


def main(args: Sequence[str] | None = None) -> None:
    """Asks the engine what to do, and does it until the engine ends the connection.

    Args:
        args: As the engine gives them: `--id=ID --provision_endpoint=HOST:PORT`, and others we do not need.
    """
    parser = argparse.ArgumentParser(prog="python -m pipelines.worker", description=__doc__)
    parser.add_argument("--id", required=True, help="the engine's name of this worker")
    parser.add_argument("--provision_endpoint", required=True, help="where the engine answers, host:port")
    known, _ = parser.parse_known_args(args)
    name = known.id.strip("'")  # Prism quotes it as if a shell were between
    os.environ.update(environment(name, ask(known.provision_endpoint, name)))

    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def ask(endpoint: str, worker_id: str, seconds: float = 60.0) -> Any:  # noqa: ANN401 - Beam ships no types
    """What the engine provides: the addresses of its services and the pipeline's options (ProvisionInfo).

    Raises:
        grpc.RpcError: If nothing answers at `endpoint` in time.
    """
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc

    request = beam_provision_api_pb2.GetProvisionInfoRequest()
    with grpc.insecure_channel(endpoint) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        answer = stub.GetProvisionInfo(
            request, metadata=(("worker_id", worker_id),), timeout=seconds, wait_for_ready=True
        )
    return answer.info


def environment(worker_id: str, info: Any) -> dict[str, str]:  # noqa: ANN401 - Beam ships no types
    """The environment variables that Beam's worker reads, as its containers' entry sets them."""
    from google.protobuf import json_format, text_format

    variables = {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    if info.status_endpoint.url:
        variables["STATUS_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(info.status_endpoint)
    return variables


if __name__ == "__main__":
    main()
