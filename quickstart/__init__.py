"""The quickstart: a sample corpus and a small language model, both made by the project."""
