"""PyTorch's side of puna. Its C++ prints a stack of its own for every lost connection: what a person needs is said by us."""

import os

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported first
