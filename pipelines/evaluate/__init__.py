"""`winnow evaluate`: whether training on the selected rows helps, against sets of as many tokens."""
