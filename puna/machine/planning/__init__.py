"""A model planned for a device before anything is loaded or fetched: from headers alone.

cards          NVIDIA cards by name: memory, bandwidth, compute rate
devices        devices to plan for: those of this machine, or one that you do not have
known_models   published models as checkpoints without numbers
fit            bytes itemised, the verdict, the nearest settings that fit
speed          expected tokens per second
cpu_roofline   this CPU's roofline, measured once
choices        published models that fit a device, and the best of them
history        predicted bytes against the bytes that loading took
allocations    the tensor that a failed allocation was for, from its size
"""
