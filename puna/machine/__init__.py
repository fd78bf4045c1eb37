"""What this machine has, whether a model fits it, how fast it will be, and what is wrong.

host           files, commands and variables of a machine: the real one, or a folder that stands for one
distribution   which system this is, as far as commands differ
setting        what stands between a program and the card: a container, WSL, nothing
pci            graphics cards on the bus
kernel_module  NVIDIA's module: loaded, built, signed; Secure Boot; the kernel's log
nvidia_smi     GPUs, their memory and who holds it
cuda_versions  driver against CUDA against wheels of PyTorch
installed_torch  which PyTorch, without importing it
trial          the GPUs tried, in a child
finding        what `puna doctor` says: state, meaning, remedy
remedies       name of a remedy -> the commands that do it on each system
probes/        plug-folder: each part of the machine tried, and what was found
doctor         all probes, in order; the verdict
script         the remedies as a script for a person to read and run
child          questions to a process of their own (`launch` starts it, `facts` answers those about this Python)
processor      this CPU: name, cores, instructions; sizes: bytes for people
limits         what devices were measured to do, remembered
why            an error text -> cause and cure, in the light of this machine
cards          NVIDIA cards by name: memory, bandwidth, what they compute
known_models   published models as checkpoints without numbers
choices        published models that fit a device, and the best of them
fit            bytes itemised, the verdict, the nearest settings that fit
speed          expected tokens per second
history        predicted bytes against those that loading took
"""
