"""Losses and a collator for fine-tuning with transformers and TRL, one published method per file."""
