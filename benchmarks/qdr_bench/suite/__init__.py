"""Suites: what to measure, written in a file; each group of cells can be resumed."""
