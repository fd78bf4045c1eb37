"""What this machine has, whether a model fits it, how fast it will be, and what is wrong.

host           files, commands and variables of a machine: the real one, or a folder that stands for one
distribution   which system this is, as far as commands differ
environment    whether a container or WSL is between a program and the card
pci            graphics cards on the bus
kernel_module  NVIDIA's module: loaded, built, signed; Secure Boot; the kernel's log
nvidia_smi     GPUs, their memory and the processes that use it
cuda_versions  driver against CUDA against wheels of PyTorch
installed_torch  which PyTorch, without importing it
self_test      tests the GPUs in a child process
finding        what `puna doctor` says: state, meaning, remedy
remedies       name of a remedy -> the commands that do it on each system
probes/        plug-folder: one file for each part of the machine
doctor         all probes, in order; the verdict
script         the remedies as a script for a person to read and run
child          questions to a process of their own (`launch` starts it, `facts` answers those about this Python)
processor      this CPU: name, cores, instructions; sizes: bytes as text
rooflines      measured rates of devices, kept in the cache
why            an error text -> cause and fix, for this machine
planning/      whether a model fits a device, and how fast it will be; the doctor's probes ask it only for names and sizes
"""
