from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from apache_beam.portability.api import beam_provision_api_pb2 as provision
from apache_beam.portability.api import beam_provision_api_pb2_grpc as provision_grpc
from apache_beam.runners.worker import sdk_worker_main

from pipelines import worker


class _Engine(provision_grpc.ProvisionServiceServicer):
    def GetProvisionInfo(self, request: Any, context: Any) -> Any:  # noqa: ANN401, N802 - gRPC's name
        info = provision.ProvisionInfo(runner_capabilities=["beam:one:v1", "beam:two:v1"])
        info.control_endpoint.url = "127.0.0.1:7"
        info.logging_endpoint.url = dict(context.invocation_metadata())["worker_id"]
        info.pipeline_options.update({"beam:option:job_name:v1": "a job"})
        return provision.GetProvisionInfoResponse(info=info)


def test_a_worker_asks_the_engine_and_tells_beam_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    provision_grpc.add_ProvisionServiceServicer_to_server(_Engine(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    told: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", told)
    monkeypatch.setattr(sdk_worker_main, "main", lambda _: None)
    try:
        # Prism's quotes, and arguments that only Beam's containers need
        worker.main(["--id='3-1'", f"--provision_endpoint=127.0.0.1:{port}", "--semi_persist_dir=/tmp"])  # noqa: S108 - unused
    finally:
        server.stop(None)
    assert told["WORKER_ID"] == "3-1"
    assert told["CONTROL_API_SERVICE_DESCRIPTOR"].strip() == 'url: "127.0.0.1:7"'
    assert told["LOGGING_API_SERVICE_DESCRIPTOR"].strip() == 'url: "3-1"'  # the id travelled with the call
    assert told["RUNNER_CAPABILITIES"] == "beam:one:v1 beam:two:v1"
    assert '"a job"' in told["PIPELINE_OPTIONS"]
    assert "STATUS_API_SERVICE_DESCRIPTOR" not in told
