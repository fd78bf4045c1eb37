"""Drop-ins for the programs that people run: Meta's `Llama` class (`meta.py`) and llama2.c's `run` (`llama2c.py`)."""
