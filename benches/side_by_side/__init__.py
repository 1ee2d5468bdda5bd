"""Runs of Dovetail beside other programs: each measure in a file of its own."""
