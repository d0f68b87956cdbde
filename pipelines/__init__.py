"""Beam stages, selectors, recipes, command line, report."""
