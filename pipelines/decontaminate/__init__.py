"""Rows that hold items of evaluation sets, found before anything is trained on them."""
