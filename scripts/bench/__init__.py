"""The benchmark: `make bench`, and measures of single parts."""
