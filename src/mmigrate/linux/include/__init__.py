"""Data and constants: the structures and numbers of `include/linux`. Nothing here runs."""
