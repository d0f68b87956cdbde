"""What is measured: scripts, run as `python -m benchmarks.NAME` from the top folder."""
