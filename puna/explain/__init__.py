"""Explains how a language model works: guided tours on a live model (`tours/`), and source files (`source/`)."""
