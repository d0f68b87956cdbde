"""Runs a language model once and hands small arrays to every scorer that asked for them."""
