"""Guided tours: one file for each topic of `topics.py`. They compute on a live model; the command line draws what they show."""
