"""puna's PyTorch backend. PyTorch's C++ prints a stack trace for every lost connection; puna prints its own message instead."""

import os

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch reads it when it is first imported
