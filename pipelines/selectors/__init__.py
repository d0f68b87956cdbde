"""Selectors: one published selection method per file, plus the contract and the catalog."""
