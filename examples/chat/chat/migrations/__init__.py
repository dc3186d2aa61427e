"""The tables, and the first room."""
