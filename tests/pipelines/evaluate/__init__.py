"""Tests of `winnow evaluate`."""
