"""Tests of the losses and the collator for fine-tuning, alone and inside a Trainer."""
