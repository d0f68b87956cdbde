"""Where examples come from and where they go: the canonical row, chat formats, readers, shards, manifest."""
