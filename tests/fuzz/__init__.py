"""Damaged and hostile input made by chance, and what must hold of every reader whatever it is given."""
