"""`winnow view`: a finished run as a local page, to search, filter and read its rows."""
