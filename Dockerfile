# Image of a Beam worker that runs winnow, for Dataflow, Flink on Kubernetes and other engines with containers.
#
#   docker build --tag REGISTRY/winnow:0.1.0 .
#
# The worker's Beam must be the one that submits the pipeline: keep 2.77.0 here and in pyproject.toml together.
FROM python:3.11-slim

# Fits both bare CPU machines and machines with an NVIDIA driver: torch brings its own CUDA libraries.
WORKDIR /opt/winnow
COPY pyproject.toml README.md LICENSE ./
COPY connectors connectors
COPY scorers scorers
COPY pipelines pipelines
RUN pip install --no-cache-dir '.[hub,gcp,aws]' 'apache-beam==2.77.0'

# Beam's entry: it asks the engine what to run, and starts Python with it.
COPY --from=apache/beam_python3.11_sdk:2.77.0 /opt/apache/beam /opt/apache/beam
ENTRYPOINT ["/opt/apache/beam/boot"]
