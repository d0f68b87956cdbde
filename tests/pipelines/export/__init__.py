"""Tests of pipelines/export: each format read back by the trainer's own loader where it installs here."""
