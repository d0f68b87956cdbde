"""Tests of the selectors, one file per method, and the contract that all of them keep."""
