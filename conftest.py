"""What pytest leaves out where a part of puna cannot be imported."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["puna/backends/torch/kernels/*"]
