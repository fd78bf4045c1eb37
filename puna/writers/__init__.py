"""Name of a format -> how it is written. `puna convert` asks here; `convert.py` makes it safe."""
