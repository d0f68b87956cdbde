"""Duplicates: exact ones, near ones by MinHash, and semantic ones by embeddings."""
