"""Sweeps: many runs as one, from plain data to a table with a row for each."""
