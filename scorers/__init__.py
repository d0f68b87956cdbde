"""Published scoring methods, one file each, and the machinery that runs a language model for them."""
