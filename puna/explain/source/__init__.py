"""Takes Python source apart, block by block: what each name is, what each block does, and what a loop computes on a model.

Nothing of the source is executed or imported: it is parsed, and `tracer/` carries out what its tables allow.
"""
