"""One script for each tool that removes near-duplicates, run in that tool's own environment."""
