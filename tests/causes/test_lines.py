"""Lines of a text: commands, code and reports stand around an error; they neither hide it nor stand for it."""

from __future__ import annotations

import pytest

from puna.causes import find
from puna.causes.lines import LineKind, is_command
from puna.causes.reading import read
from tests.causes.corpus import texts

COMMANDS = (
    "./huggingface-to-gguf models/aya-expanse-8b/ --outtype q8_0",
    "$ python convert_hf_to_gguf.py ./Llama-3-8B --outfile m.gguf",
    r"PS C:\Users\me> ollama run llama3 --verbose",
    "(env) me@box:~/llama.cpp$ ./build/bin/llama-server -m model.gguf -ngl 99 --cache-type-v q8_0 -fa on",
    "[me@box ~]# nvidia-smi",
    "vllm serve meta-llama/Llama-3-8B --gpu-memory-utilization 0.9 --max-model-len 8192",
    "docker run --gpus all --shm-size 8g -e NCCL_DEBUG=INFO vllm/vllm-openai:latest --model mistralai/Mistral-7B",
    "torchrun --nproc_per_node 2 example.py --ckpt_dir llama-2-7b/ --tokenizer_path tokenizer.model",
    "pip install flash-attn --no-build-isolation",
    'CMAKE_ARGS="-DGGML_CUDA=on" pip install llama-cpp-python --force-reinstall --no-cache-dir',
    "CUDA_VISIBLE_DEVICES=0,1 python -m sglang.launch_server --model-path Qwen/Qwen3-8B",
    r"D:\uv\313>uv add dist\llama_cpp_python-0.3.19-cp313-cp313-win_amd64.whl",
    "/usr/local/cuda-12.5/bin/nvcc --threads=0 -O3 train_gpt2_fp32.cu -lcublas -o train",
    "./build/bin/llama-cli -m m.gguf -p 'what is the error, and why does it fail'",
    "+ cmake --build build --config Release",
    "!pip install unsloth",
)
REPORTS = (
    "(EngineCore_DP0 pid=504) INFO 11-23 11:58:35 [ray_executor.py:121] Shutting down Ray distributed executor. If you see error "
    "log from logging.cc regarding SIGTERM received, please ignore because this is the expected termination process in Ray.",
    'time=2025-09-03T15:13:30.404Z level=INFO source=gpu.go:217 msg="looking for compatible GPUs"',
    "2025-10-01 10:00:00,123 - torch.distributed - INFO - using nccl backend with 2 gpus for tensor parallel",
    "INFO:hf-to-gguf:gguf: This GGUF file is for Little Endian only",
    "[2025-11-12 11:22:42][INFO] loading with the cuda 12 runtime, 12 GiB of gpu memory, flash attention not supported",
    "node1:18553:18611 [0] NCCL INFO transport/net_socket.cu:118 -> 2",
    "0.06.785.115 I llama_context: KV self size = 4096.00 MiB, K (f16): 2048.00 MiB, V (f16): 2048.00 MiB",
)
SPOKEN = (
    "/usr/bin/ld: cannot find -lcuda: No such file or directory",
    "./llama-server: error while loading shared libraries: libggml.so: cannot open shared object file",
    "ollama run llama3 says that it is not found",
    "pip install flash-attn breaks because nvcc can't be found, CUDA_HOME isn't set apparently",
    "vllm serve crashes on my two cards with --tensor-parallel-size 2",
    "gcc: fatal error: Killed signal terminated program cc1plus",
    '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    'time=2025-02-19T04:44:23.228Z level=INFO msg="Unable to load cudart library libcuda.so: init failure: 802"',
    "set NCCL_DEBUG=INFO and look for the first WARN",
    "+ nccl was not built in",
    "!!! Exception during processing !!! No module named 'transformers'",
)
TRACEBACK = """
Traceback (most recent call last):
  File "/opt/ggml/./huggingface-to-gguf", line 2021, in ArceeModel
    model_arch = gguf.MODEL_ARCH.ARCEE
                 ^^^^^^^^^^^^^^^^^^^^^
AttributeError: type object 'MODEL_ARCH' has no attribute 'ARCEE'
"""


def kinds_of(text: str) -> list[LineKind]:
    return list(read(text).kinds)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_known_by_its_prompt_or_its_options(line: str) -> None:
    assert is_command(line) and kinds_of(line) == ["typed"]


@pytest.mark.parametrize("line", REPORTS)
def test_a_report_without_trouble_is_known_by_its_level(line: str) -> None:
    assert kinds_of(line) == ["info"]


@pytest.mark.parametrize("line", SPOKEN)
def test_what_tells_of_trouble_is_neither(line: str) -> None:
    assert kinds_of(line) in (["said"], ["error"])


def test_a_traceback_is_code_but_for_its_last_line() -> None:
    assert kinds_of(TRACEBACK) == ["code"] * 4 + ["error"]
    levels = "\n".join(f"(Worker pid=4) ERROR 09-26 10:57:34 [executor.py:671] {line}" for line in TRACEBACK.strip().split("\n"))
    assert kinds_of(levels) == ["code"] * 4 + ["error"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("----> 1 from x import y\n      2 z\n3 frames\nKeyError: 'x'", ["code", "code", "code", "error"]),
        (
            "/env/torch/xpu/__init__.py:120 in _lazy_init\n\n 119 # comment\n❱ 120 init()\nRuntimeError: no",
            ["code"] * 3 + ["error"],
        ),
        ("    at Main.run (index.js:119:7795)\n#3 0x00007f in abort ()\n", ["code", "code"]),
        ('File "x.py", line 4, in run\ntriton.errors.OutOfResources: out of resource', ["code", "said"]),
        ("error[E0502]: cannot borrow\nSegmentation fault", ["error", "said"]),
        ("", ["said"]),
    ],
)
def test_other_tracebacks_are_code_too(text: str, found: list[LineKind]) -> None:
    assert kinds_of(text) == found


@pytest.mark.parametrize("aside", [*COMMANDS, *REPORTS])
def test_a_command_or_report_beside_an_unrelated_text_does_not_make_it_known(aside: str) -> None:
    """One in four was claimed when the words of a command counted as a person's."""
    unrelated = texts("unrelated")[len(aside) % 5 :: 5]
    assert [entry["what"] for entry in unrelated if find(f"{aside}\n{entry['text']}")] == []


def test_a_cause_in_what_is_said_comes_before_one_in_a_command() -> None:
    found = find("$ grep -r 'no cuda gpus are available' log\nRuntimeError: Distributed package doesn't have NCCL built in")
    assert [match.cause.name for match in found] == ["nccl-not-built-in", "no-cuda-gpus"]
    assert [match.is_aside for match in found] == [False, True] and found[0].confidence > 0.9


def test_an_aside_alone_is_a_guess_where_the_text_names_an_error_that_is_unknown() -> None:
    aside = "INFO 11-23 11:58:35 [worker.py:9] the check says: no CUDA GPUs are available"
    sure, doubtful = find(aside)[0], find(f"{aside}\nValueError: the colour 7 is not in the palette")[0]
    assert sure.confidence > 0.9 > doubtful.confidence


def test_the_line_that_is_shown_is_the_error_not_the_frame_above_it() -> None:
    error = "AttributeError: 'NoneType' object has no attribute 'to'"
    assert find(f'  File "/env/transformers/integrations/flash_attention.py", line 84\n{error}')[0].line == error


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"ValueError: seven\n{REPORTS[0]}", "ValueError: seven"),
        ("RuntimeError:\n  An attempt has been made.\n  Put it under a guard.", "RuntimeError: An attempt has been made."),
        ("one\ntwo\n$ ls -l", "two"),
        ("$ ls -l", "$ ls -l"),
        ("", ""),
    ],
)
def test_the_line_to_quote_of_an_unknown_text_is_its_error(text: str, line: str) -> None:
    assert read(text).error == line
