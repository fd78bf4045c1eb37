"""What holds for every test and doctest: a cache of their own, and files left out where a part of puna cannot be imported."""

from __future__ import annotations

import importlib.util

from tests import own_cache

own_cache.use()

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["puna/backends/torch/kernels/*"]
