"""Runs a sampling or generation loop of a source file as data, and keeps the shape and the first values of all it computes."""
