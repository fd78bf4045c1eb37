"""Several processes: NCCL, torchrun, the number of shards, addresses and ports."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, filled, says

ONE_CARD = 'puna needs no process group on one card or CPU: puna run llama-2-7b/ "..."'
ANY = (
    "puna reads .pth folders of any shard count into one process, or into any number that divides the heads: puna run "
    'llama-2-13b/ "..."'
)

MANY = 64  # more processes than share the heads of any one model


def explain_heads(numbers: Captures) -> Explanation:
    """A number of heads that the GPUs cannot share evenly, with the numbers of GPUs that can."""
    heads = int(numbers.get("heads", "0"))
    fitting = [str(n) for n in range(1, min(heads, MANY) + 1) if heads % n == 0]
    told = filled("{heads} attention heads cannot be shared evenly by {ranks} GPUs.", numbers)
    which = f"one that divides {heads}: {', '.join(fitting)}" if fitting else "one that divides the model's heads"
    return Explanation(
        told or "The attention heads cannot be shared evenly by this number of GPUs.",
        (
            f"Use another number of GPUs, {which}. The K and V heads have their own limit.",
            "In vLLM other cards can hold other layers: --pipeline-parallel-size",
        ),
        instead="puna splits by heads as well: it takes any number of processes that divides them.",
        numbers=numbers,
    )


CAUSES = (
    Cause(
        "nccl-not-built-in",
        "distributed",
        (
            "distributed package doesn't have nccl built in",
            "distributed package doesn't have nccl",
            "doesn't have nccl built in",
            "nccl support is not compiled",
        ),
        says(
            "This PyTorch has no NCCL: the wheels for Windows, macOS and the CPU do not include it. The program "
            'asks for it even for one process: init_process_group("nccl") is called whether it is needed or not.',
            "One GPU needs no process group: run the model with a program that makes none.",
            'To keep the same program: change "nccl" to "gloo" in its call of init_process_group.',
            "On Linux with several GPUs: install a PyTorch that was built with CUDA; puna doctor says whether yours was.",
            instead=ONE_CARD,
        ),
        ("+nccl", "+built|compil|without|support|missing|not have", "distributed|process group|torch", "windows|gpu|package"),
    ),
    Cause(
        "libuv-missing",
        "distributed",
        (
            "use_libuv was requested but pytorch was build without libuv support",
            "use_libuv was requested but pytorch was built without libuv support",
            "without libuv support",
        ),
        says(
            "torchrun needs libuv, but PyTorch's Windows wheels 2.4 to 2.6 were built without it.",
            "Switch it off: in cmd set USE_LIBUV=0, in PowerShell $env:USE_LIBUV=0; or update PyTorch.",
            "One GPU needs no torchrun: start the program with python, or give it one GPU in accelerate config.",
            instead=ONE_CARD,
        ),
        ("+libuv", "+torch|windows|built|support"),
    ),
    Cause(
        "gloo-device",
        "distributed",
        (
            "makedeviceforhostname(): unsupported gloo device",
            "makedeviceforinterface(): unsupported gloo device",
            "unsupported gloo device",
            "gloo connectfullmesh failed",
            "gloo ... connection closed by peer",
        ),
        says(
            "Gloo, PyTorch's replacement for NCCL between processes, found no usable network address of this machine.",
            "Name the interface: export GLOO_SOCKET_IFNAME=lo; Windows: set the machine's name in the file hosts to 127.0.0.1",
            "One process does not need Gloo: start the program without torchrun.",
            instead=ONE_CARD,
        ),
        ("+gloo", "+unsupported|connect|device"),
    ),
    Cause(
        "no-checkpoint-in-folder",
        "distributed",
        ("loading a checkpoint for mp=0 but world size is {world:word}", "no checkpoint files found in {folder:path}"),
        says(
            (
                "There is no *.pth in the folder {folder}: the path is wrong, the download is incomplete, or the checkpoint "
                "is one of Hugging Face's, with safetensors.",
                "There is no *.pth in the folder of --ckpt_dir: the path is wrong, the download is incomplete, or the "
                "checkpoint is one of Hugging Face's, with safetensors.",
            ),
            "See what is there: ls -l CKPT_DIR; consolidated.00.pth and params.json are expected.",
            instead='puna takes either kind of folder as it is: puna run FOLDER "..."',
        ),
        ("+mp=0|no checkpoint|no .pth", "+checkpoint|folder|ckpt"),
    ),
    Cause(
        "world-size-mismatch",
        "distributed",
        (
            "loading a checkpoint for mp={shards:int} but world size is {world:word}",
            "checkpoint for mp={shards:int} but world size",
            "checkpoint for mp=",
        ),
        says(
            (
                "The folder holds {shards} consolidated.NN.pth, but the world size is {world}: Meta's program needs as many "
                "processes as files, for any number of GPUs.",
                "Meta's program needs as many processes as the folder has consolidated.NN.pth files, but another number was "
                "started.",
            ),
            "Start as many: torchrun --nproc_per_node {shards} ...",
            "The 7B has one file, the 13B two, the 70B eight; each process then needs a GPU.",
            instead=ANY,
        ),
        ("+mp=|model parallel|shard", "+world size|processes|nproc", "checkpoint|llama"),
    ),
    Cause(
        "main-guard-missing",
        "distributed",
        (
            "an attempt has been made to start a new process before the current process has finished its bootstrapping phase",
            "you are not using fork to start your child processes and you have forgotten to use the proper idiom in the main "
            "module",
            "you have forgotten to use the proper idiom in the main module",
            'the "freeze_support()" line can be omitted if the program is not going to be frozen',
        ),
        says(
            "The program starts worker processes as soon as it is imported, and each worker imports it again. Python does so "
            "when it starts processes by spawn: always on Windows and macOS, and in vLLM once CUDA is in use.",
            "Put what stands at the top level into a function, and call it in the main process only: if __name__ == '__main__': "
            "main()",
            "That includes vLLM's LLM(...), a DataLoader with num_workers, and whatever imports a file that does such things.",
            instead="puna starts no worker processes on one card, and needs no such guard.",
        ),
        ("+__main__|freeze_support|bootstrapping phase", "+process|processes|spawn|multiprocessing|worker"),
    ),
    Cause(
        "ray-no-gpu",
        "distributed",
        (
            "tensor parallel size ({wanted:int}) exceeds available gpus ({have:int}). this may result in ray placement group",
            "tensor parallel size ({wanted:int}) exceeds available gpus ({have:int})",
            "cannot provide a placement group requiring {wanted:int} gpus",
            "cannot provide a placement group of placement_group_specs",
            "current node has no gpu available",
            "vllm engine cannot start without gpu. make sure you have at least 1 gpu available in a node",
            "vllm engine cannot start without gpu",
            "ray does not allocate any gpus on the driver node",
            "the number of required gpus exceeds the total number of available gpus in the placement group",
            "waiting for creating a placement group of specs for {seconds:int} seconds",
            "no available node types can fulfill resource request",
        ),
        says(
            (
                "Ray has {have} GPUs to give, and {wanted} are asked for.",
                "Ray does not have the {wanted} GPUs that are asked for: other runs hold some, or nodes joined without theirs.",
                "Ray has no free GPU where the program needs one: another run holds it (a placement group), this node joined "
                "without its GPUs, or it has none.",
            ),
            "See what Ray counts, in all and in use: ray status",
            "End runs that still hold GPUs. If none should, end Ray on each node, and start it anew: ray stop",
            "If a node joined without its GPUs (nvidia-smi shows them there): ray start --address HEAD:6379 --num-gpus N",
            "Start vLLM once, on a node that has a GPU, and give each node its own address: export VLLM_HOST_IP=ADDRESS",
            "One machine needs no Ray: --distributed-executor-backend mp",
            instead=ONE_CARD,
        ),
        ("+ray", "+no gpu|placement group|not allocate", "vllm|node|driver|cluster"),
    ),
    Cause(
        "rendezvous-variables",
        "distributed",
        (
            "environment variable {variable:word} expected, but not set",
            "error initializing torch.distributed using env:// rendezvous",
            "default process group has not been initialized",
            "model parallel group is not initialized",
        ),
        says(
            (
                "The program expects to be started by torchrun, which sets {variable}; it was started by python.",
                "The program expects a process group, and none was created: it was not started by torchrun.",
            ),
            "Start it with: torchrun --nproc_per_node 1 PROGRAM ...",
            "In your own code call torch.distributed.init_process_group() first; with fairscale then "
            "initialize_model_parallel(1).",
            "Or set what torchrun would: export RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500",
            instead=ONE_CARD,
        ),
        ("+rank|world_size|master_addr|torchrun", "+not set|environment variable|rendezvous", "+torch|distributed|torchrun"),
    ),
    Cause(
        "port-in-use",
        "distributed",
        (
            "failed to bind to {address:path}:{port:int} (errno: 98 - address already in use",
            "failed to listen on any local network address. port: {port:int}",
            "server socket has failed to listen on any local network address",
            "the server socket has failed to bind",
            "eaddrinuse ... tcpstore",
        ),
        says(
            (
                "Port {port} is in use, by another run of torchrun or another program.",
                "The port at which the processes meet is in use, often by another run of torchrun.",
            ),
            "See which program uses it: ss -ltnp | grep {port}",
            "Use another port: torchrun --master_port 29501 ..., or let torchrun choose: --standalone",
            instead=ONE_CARD,
        ),
        ("+torchrun|29500|master_port|torch.distributed", "+address already in use|already in use|in use|taken"),
    ),
    Cause(
        "nccl-peer-access",
        "distributed",
        (
            "peer access is not supported between these two devices",
            "failed to open cuda ipc handle",
            "cudadeviceenablepeeraccess",
        ),
        says(
            "The GPUs cannot read each other's memory (GeForce cards of the 40 and 50 series do not allow it, nor does an "
            "IOMMU or ACS in the way), and NCCL tried it anyway.",
            "Use main memory instead: export NCCL_P2P_DISABLE=1",
            "See how the cards are connected: nvidia-smi topo -p2p r",
            "Update NCCL together with PyTorch: older versions do not know the newest cards.",
            instead='With one card puna uses no NCCL; with several: torchrun --nproc_per_node 2 -m puna run MODEL "..."',
        ),
        ("+nccl|gpu|5090|4090", "+p2p|peer access|peer-to-peer", "hang|disable|support|fail"),
    ),
    Cause(
        "nccl-duplicate-gpu",
        "distributed",
        ("duplicate gpu detected : rank {rank:int} and rank {other:int}", "duplicate gpu detected"),
        says(
            (
                "Rank {rank} and rank {other} have the same GPU: NCCL needs one GPU per rank.",
                "Two ranks have the same GPU: NCCL needs one GPU per rank.",
            ),
            'Give each process its own GPU: torch.cuda.set_device(int(os.environ["LOCAL_RANK"])), before it uses a GPU.',
            "See how many there are, and start no more processes: nvidia-smi -L; torchrun --nproc_per_node N",
            "See whether a variable shows each process one card only: echo $CUDA_VISIBLE_DEVICES",
            instead=ONE_CARD,
        ),
        ("+nccl|rank", "+same gpu|duplicate gpu|same device"),
    ),
    Cause(
        "nccl-shared-memory",
        "distributed",
        (
            "error: failed to extend {segment:path} to {bytes:int} bytes, error: no space left on device",
            "error while creating shared memory segment {segment:path} (size {bytes:int}), error: no space left on device",
            "error while creating shared memory segment {segment:path} (size {bytes:int})",
            "error while creating shared memory segment",
            "error while attaching to shared memory segment",
            "call to posix_fallocate failed : no space left on device",
        ),
        says(
            "NCCL's ranks exchange data in shared memory (/dev/shm), which is too small. A container has 64 MB unless "
            "more is given.",
            "See how much there is: df -h /dev/shm",
            "Give the container the machine's: docker run --ipc=host, or more of its own: --shm-size=8g. In Kubernetes: an "
            "emptyDir of medium Memory at /dev/shm.",
            "Outside a container: delete leftovers of killed runs, rm /dev/shm/nccl-*; or avoid it: NCCL_SHM_DISABLE=1",
            instead=ONE_CARD,
        ),
        ("+nccl", "+shared memory|/dev/shm|shm", "docker|container|fail|size|small"),
    ),
    Cause(
        "nccl-unreachable",
        "distributed",
        (
            "warn call to connect failed : {reason:word}",
            "warn socket creation failed",
            "warn no socket interface found",
            "warn bootstrap : no socket interface found",
            "nccl warn socketstartconnect: connect to {address:path} failed",
            "nccl warn socketpollconnect: connect",
        ),
        says(
            "NCCL's ranks cannot reach each other: NCCL chose a network interface that does not lead to the others (docker0, a "
            "virtual one), or a firewall is between.",
            "Name the right interface: ip -br addr, then export NCCL_SOCKET_IFNAME=eth0",
            "Between machines: NCCL uses any port, so the firewall must allow all ports between them.",
            "On one machine: export NCCL_SOCKET_IFNAME=lo; in a container: docker run --net=host",
            instead=ONE_CARD,
        ),
        ("+nccl", "+connect|connection|reach|interface", "+timed out|timeout|refused|fail|firewall"),
    ),
    Cause(
        "nccl-error",
        "distributed",
        (
            "nccl error in: ... unhandled system error",
            "nccl error in: ... unhandled cuda error",
            "ncclsystemerror: system call",
            "ncclunhandledcudaerror",
            "ncclinternalerror",
            "ncclremoteerror",
            "ncclinvalidusage",
            "nccl warn call to",
            "nccl failure ... unhandled system error",
            "nccl warn cuda failure",
            "nccl warn",
            "cuda failure {code:int} '",
            "nccl error: unhandled",
            "nccl error: invalid usage",
            "nccl error: internal error",
            "nccl error in:",
        ),
        says(
            "NCCL failed because of shared memory, a network card, or a CUDA error on one of the ranks. NCCL's own log says "
            "which.",
            "Turn its log on: NCCL_DEBUG=INFO PROGRAM; look for the first line with WARN.",
            "In a container, give it shared memory: docker run --ipc=host, or --shm-size=8g",
            "Several network cards: name one, export NCCL_SOCKET_IFNAME=eth0",
            "One process per GPU: torch.cuda.set_device(LOCAL_RANK), and no more processes than cards.",
            instead=ONE_CARD,
        ),
        ("+nccl", "+error|fail|crash", "system|cuda|unhandled|init"),
        role="effect",
    ),
    Cause(
        "master-address",
        "distributed",
        (
            "client socket has failed to connect to [{host:word}]:{port:int} (system error: 10049",
            "client socket has timed out after",
            "client socket has failed to connect to any network address of ({host:path}",
            "client socket has failed to connect to",
        ),
        says(
            (
                "The processes do not find the first one at {host}, port {port}: the name leads to another address than this "
                "machine's. On Windows this line is a warning and often not the reason why the program ends.",
                "The processes cannot reach the first one: wrong address, or a firewall. On Windows this line is a "
                "warning and often not the reason why the program ends.",
            ),
            "On one machine: export MASTER_ADDR=127.0.0.1, or torchrun --standalone",
            "Between machines: the same --master_addr on all, and its port open in the firewall.",
            instead=ONE_CARD,
        ),
        ("+client socket|master_addr|10049|rendezvous", "+connect|address|valid|time"),
        role="symptom",
    ),
    Cause(
        "heads-not-divisible",
        "distributed",
        (
            "total number of attention heads ({heads:int}) must be divisible by tensor parallel size ({ranks:int})",
            "attention heads ... must be divisible by tensor parallel size",
        ),
        explain_heads,
        ("+attention heads|heads", "+divisible|divide", "+tensor parallel|gpu|gpus|vllm"),
        concept="attention",
    ),
    Cause(
        "nccl-timeout",
        "distributed",
        (
            "watchdog caught collective operation timeout: worknccl(seqnum={seq:int}, optype={operation:word}, ... ran for "
            "{ms:int} milliseconds",
            "watchdog caught collective operation timeout",
            "some nccl operations have failed or timed out",
            "collective operation timeout",
        ),
        says(
            (
                "One rank waited {ms} ms for the others in {operation}: another rank had stopped or failed before, or went "
                "another way. This line reports the effect, not the cause.",
                "One rank waited for the others until its time limit: another rank had stopped or failed before.",
            ),
            "Look for the first error of any other rank, above in the log or in its own log: torchrun --log-dir logs --tee 3 ...",
            "If none failed: try NCCL_P2P_DISABLE=1, then NCCL_DEBUG=INFO.",
            instead="In puna all processes end when one dies, and the failed one says why.",
        ),
        ("+nccl|collective", "+timeout|timed out|hang"),
        role="effect",
    ),
    Cause(
        "child-failed",
        "distributed",
        (
            "childfailederror",
            "failed (exitcode: {code:int}) local_rank: {rank:int}",
            "sending process {pid:int} closing signal sigterm",
            "process group watchdog thread terminated with exception",
            "exception raised from ncclcommwatchdog",
        ),
        says(
            (
                "This is torchrun's report only: the process of local rank {rank} ended with code {code}. Its own error "
                "stands above, or in its own log.",
                "This is torchrun's report only: a process that it had started failed. The error itself is above, or in that "
                "process's log.",
            ),
            "Give puna why the whole log, from the start.",
            "If there is nothing above: torchrun --log-dir logs --tee 3 ... shows what each process wrote.",
            "exitcode -9: main memory was full. -11: a crash in compiled code.",
            instead=ONE_CARD,
        ),
        ("+childfailederror|child failed|child process", "+torchrun|exitcode|elastic", "process|error|failed"),
        role="effect",
    ),
)
