"""Checkpoints that are missing, damaged, gated, in another format, or newer than the program."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, says

AS_IT_IS = "puna reads GGUF, safetensors, .bin, Meta's .pth and llama2.c's .bin as they are: puna run PATH \"...\""
INSPECT = "puna inspect PATH names the field and the byte at which a file is wrong."
FAMILIES = (
    "qwen3_moe",
    "qwen3_next",
    "qwen3_vl",
    "qwen3_5",
    "gemma3",
    "gemma3_text",
    "gemma3n",
    "gemma4",
    "llama4",
    "mistral3",
    "glm4",
    "glm4_moe",
    "gpt_oss",
    "deepseek_v3",
    "phi3",
    "smollm3",
    "granite",
    "olmo2",
)
AGAIN = "Fetch it again, and compare its size and sha256 with the source's: sha256sum FILE"

# What the Python package gguf holds: each version adds names to them.
GGUF_PARTS = (
    *("model_arch", "model_tensor", "ggmlquantizationtype", "ggufvaluetype", "llamafiletype", "ropescalingtype"),
    *("expertgatingfunctype", "visionprojectortype"),
)
# The first four bytes of a file, as llama.cpp prints them -> the file's kind.
MAGICS = {"4f44213c": "an HTML page", "04034b50": "a zip archive, such as a .pth", "00000000": "zeros"}


def explain_magic(numbers: Captures) -> Explanation:
    """A file that does not begin like a GGUF, with what its first bytes mean."""
    kind = MAGICS.get(numbers.get("magic", ""))
    begins = f" but like {kind}" if kind else ""
    return Explanation(
        f"The file does not begin like a GGUF{begins}: it has another format, or is a saved error page.",
        (
            "See its first bytes: head -c 64 FILE | xxd",
            "Make sure that the path is the model's file, not a folder or a program.",
            AGAIN,
        ),
        "",
        AS_IT_IS,
        numbers,
    )


# ggml type numbers added after 2024 -> name, and the llama.cpp that has it.
NEW_TYPES = {"34": "TQ1_0", "35": "TQ2_0", "39": "MXFP4 (gpt-oss), which came in August 2025", "40": "NVFP4"}
NO_LONGER = ("4", "5", "31", "32", "33", "36", "37", "38")  # removed from llama.cpp, or reused by a fork


def explain_type(numbers: Captures) -> Explanation:
    """A tensor type number that the program does not know: newer than the program, or a fork's."""
    number = numbers.get("type", "")
    name = NEW_TYPES.get(number)
    if name:
        told = f"The file holds tensors of type {number}: {name}. The program is older than this type."
        cure = "Update the program (llama.cpp, llama-cpp-python, Ollama, LM Studio and its runtimes)."
    elif number in NO_LONGER:
        told = f"The file holds tensors of type {number}, which llama.cpp dropped or never had: a fork or Ollama made the file."
        cure = "Use a GGUF of the same model made by llama.cpp's own converter; an Ollama blob often runs only in Ollama."
    else:
        told = (
            f"The file holds tensors of {f'type {number}' if number else 'a type'}{', which' if number else ' that'} the program "
            "does not know: the program is older than the file, or a fork (ik_llama.cpp, BitNet) made the file."
        )
        cure = "Update the program; if it still fails, use the fork that the model's page names, or take another quantisation."
    return Explanation(told, (cure, "See the types: puna inspect FILE.gguf"), instead=INSPECT, numbers=numbers)


# Architectures that llama.cpp never had -> the model, and the versions of Ollama whose own engine ran it.
OF_OLLAMA_ALONE = {"mllama": ("Llama 3.2 Vision", "0.4", "0.24")}


def explain_architecture(numbers: Captures) -> Explanation:
    """An architecture that a program does not know: mostly it is older than the model; some llama.cpp has never had."""
    name = numbers.get("architecture", "")
    model, first, last = OF_OLLAMA_ALONE.get(name.lower(), ("", "", ""))
    if model:
        told = (
            f"The model is {model} ({name}), which llama.cpp has never run, nor LM Studio. Only Ollama's own engine did, from "
            f"{first} to {last}: since 0.30 Ollama starts llama.cpp's llama-server. There, neither an update nor a new pull "
            f"fixes it."
        )
        cure: tuple[str, ...] = (
            "Take another model that sees: ollama pull qwen2.5vl",
            f"Or install Ollama {last} again: https://github.com/ollama/ollama/releases; Docker: docker pull "
            f"ollama/ollama:{last}.0",
        )
    else:
        which = f"the architecture {name}" if name else "the model's architecture"
        told = f"The program does not know {which}: it is older than the model, or does not run this family."
        cure = (
            "Update the program first (llama.cpp, llama-cpp-python, Ollama).",
            "LM Studio brings its own llama.cpp: Settings, Runtime, update it there; if the newest does not run the model, wait "
            "for the next.",
        )
    return Explanation(
        told,
        cure,
        instead="puna runs the LLaMA family and its relatives (Llama 1 to 3.3, Mistral, Mixtral, Qwen2, Qwen3, Gemma 2 and 3, "
        "Phi-3 and 4, and what was made of them) and refuses others by name.",
        numbers=numbers,
    )


CAUSES = (
    Cause(
        "git-lfs-pointer",
        "files",
        (
            "invalid magic characters 'vers'",
            "invalid magic characters 'v'",
            "invalid load key, 'v'.",
            "version https://git-lfs.github.com/spec/v1",
            "invalid magic number 73726576",
            "unknown (magic, version) combination: 73726576",
            "smudge error",
            "this repository is over its data quota",
        ),
        says(
            "The file is a Git LFS pointer: some lines of text instead of the model, because the repository was "
            "cloned without LFS.",
            "See it: head -c 100 FILE begins with 'version https://git-lfs'",
            "Fetch the real file: git lfs install && git lfs pull",
            instead="puna pull hf:OWNER/REPO/FILE.gguf fetches the file itself, with a checked sha256.",
        ),
        (
            "+git lfs|git-lfs|lfs|cloned|git clone",
            "+pointer|bytes|magic|tiny|text file",
            "+gguf|model|weights|safetensors|llama|tokenizer",
        ),
    ),
    Cause(
        "program-older-than-gguf",
        "files",
        ("unknown (magic, version) combination: 46554747", "bad magic ... gguf", "wrong magic in header"),
        says(
            "The file is a GGUF, but the program is from before August 2023, when the format appeared.",
            "Update the program: pip install -U llama-cpp-python, or a current llama.cpp.",
            instead=AS_IT_IS,
        ),
    ),
    Cause(
        "old-ggml-file",
        "files",
        (
            "invalid magic characters tjgg",
            "invalid magic characters 'tjgg'",
            "invalid magic characters 'lmgg'",
            "invalid magic characters 'fmgg'",
            "invalid magic number 67676a74",
            "unknown (magic, version) combination: 67676a74",
            "unknown (magic, version) combination: 67676d",
            "is this really a ggml file",
        ),
        says(
            "The file has a format from before GGUF (ggml, ggjt; August 2023 and earlier), which the program does not "
            "read (or not in this version).",
            "Use a GGUF of the same model: nearly all exist as GGUF.",
            "Or convert it: convert_llama_ggml_to_gguf.py of llama.cpp.",
            instead=(
                "puna reads GGUF v2 and v3, and makes one from the original weights: puna convert FOLDER m.gguf --to gguf "
                "--quantize q4_k"
            ),
        ),
        ("+ggml|ggjt", "+magic|old format|old file|gguf", "load|read|version"),
    ),
    Cause(
        "not-a-gguf-file",
        "files",
        (
            "invalid magic number {magic:word}",
            "invalid magic characters",
            "unknown (magic, version) combination: {magic:word}",
            "gguf magic invalid",
            "invalid file magic",
            "file does not start with gguf",
        ),
        explain_magic,
        ("+gguf", "+magic|not a gguf|header", "invalid|wrong|load"),
    ),
    Cause(
        "gguf-unknown-type",
        "files",
        (
            "tensor '{tensor:word}' has invalid ggml type {type:int}",
            "has invalid ggml type {type:int}",
            "tensor '{tensor:word}' of type {type:int} ({name:word}) has {columns:int} elements per row, not a multiple of "
            "block size",
            "elements per row, not a multiple of block size",
            "unknown ggml tensor type {type:int}",
            "unknown tensor type {type:int}",
            "unsupported tensor type {type:int}",
            "unsupported quantization type {type:word}",
            "{type:int} is not a valid ggmlquantizationtype",
            "unhandled type {type:int}",
        ),
        explain_type,
        ("+ggml type|tensor type|mxfp4", "+invalid|unknown|unsupported", "+gguf|llama.cpp|ollama|lm studio|model"),
        concept="quantisation",
    ),
    Cause(
        "gguf-vision-part",
        "files",
        (
            "unknown projector type: {type:word}",
            "failed to load clip model",
            "failed to load vision model",
            "failed to load multimodal model",
            "error loading mmproj",
            "failed to load mmproj",
            "mmproj is not supported",
            "this server does not support multimodal",
            "image input is not supported",
        ),
        says(
            (
                "The program does not know the picture part {type} (mmproj): it is older than the model.",
                "The part of the model that reads pictures (mmproj) did not load or was not given.",
            ),
            "Update the program; give the mmproj file of exactly this model: llama-server -m MODEL.gguf --mmproj MMPROJ.gguf",
            "Text alone needs no mmproj.",
            instead="puna runs text models; it reads no pictures.",
        ),
        ("+mmproj|clip model|projector type", "+fail|unknown|load|not supported"),
    ),
    Cause(
        "gguf-cut-short",
        "files",
        (
            "tensor '{tensor:word}' data is not within the file bounds",
            "data is not within the file bounds",
            "model is corrupted or incomplete",
            "gguf_init_from_file: failed to read",
            "failed to read tensor data",
            "unexpectedly reached end of file",
        ),
        says(
            (
                "The file ends before the tensor {tensor} does: the download was cut short, or it is one part of several.",
                "The file ends before its tensors do: the download was cut short, or it is one part of several.",
            ),
            AGAIN,
            "Parts named -00001-of-00006.gguf stay apart and must all be there; parts named .part1of2 must be joined: cat A "
            "B > C",
            instead=INSPECT,
        ),
        ("+gguf|tensor|model file", "+corrupt|incomplete|cut short|truncated|end of file|file bounds", "download|load|data"),
    ),
    Cause(
        "gguf-tensor-count",
        "files",
        ("wrong number of tensors; expected {expected:int}, got {got:int}", "wrong number of tensors"),
        says(
            (
                "The file holds {expected} tensors, but the program used {got} of them: it is older than the model. Llama "
                "3.1 brought one more, rope_freqs, in July 2024; before that version its long contexts are wrong.",
                "The file holds another number of tensors than the program uses: it is older than the model.",
            ),
            "Update the program (llama.cpp, llama-cpp-python, Ollama, LM Studio).",
            instead=AS_IT_IS,
        ),
        ("+number of tensors", "expected|wrong"),
    ),
    Cause(
        "gguf-other-tensors",
        "files",
        (
            "tensor '{tensor:word}' not found",
            "missing tensor '{tensor:word}'",
            "tensor '{tensor:word}' is missing from model",
            "tensor '{tensor:word}' has wrong shape; expected {expected:shape}, got {got:shape}",
            "tensor '{tensor:word}' has wrong shape",
        ),
        says(
            (
                "The program expects the tensor {tensor} as {expected}, but the file has {got}: the file was made by another "
                "version of the converter, or the program is older than the model.",
                "The program looks for the tensor {tensor}, but the file has none of that name, or has another shape: the "
                "program is older than the model, the file was made by another version of the converter, or it is only a part "
                "(an adapter, a vision part, one file of several).",
                "The file's tensors are not those that the program looks for.",
            ),
            "Update the program first. Models with tied embeddings (Gemma, Llama 3.2) have no output.weight, which old versions "
            "look for.",
            "If you made the file: make it again with the current convert_hf_to_gguf.py. Otherwise take another conversion.",
            instead="puna inspect PATH lists the tensors of a file; puna names a missing tensor before it loads any.",
        ),
        ("+tensor", "+missing|not found|wrong shape", "+gguf|llama.cpp|output.weight|blk"),
    ),
    Cause(
        "gguf-package-old",
        "files",
        (
            *(f"type object '{part}' has no attribute '{{name:name}}'" for part in GGUF_PARTS),
            "gguf.model_arch.{name:name} ~~~ raise attributeerror(name) from none",
            "cannot import name '{name:name}' from 'gguf'",
            "cannot import name '{name:name}' from 'gguf.{part:name}'",
            "module 'gguf' has no attribute '{name:name}'",
            "module 'gguf.{part:name}' has no attribute '{name:name}'",
            "'ggufwriter' object has no attribute '{name:name}'",
            "'ggufreader' object has no attribute '{name:name}'",
            "no module named 'gguf.{name:name}'",
        ),
        says(
            (
                "The converter wants {name} of the Python package gguf, and the gguf that it found has none: that one is of "
                "another version, mostly an older one from pip.",
                "The converter and the Python package gguf that it found are of different versions: gguf is mostly older, from "
                "pip.",
            ),
            "Update the checkout, and start the converter in its folder, where it takes the gguf-py beside it (a copy of the "
            "script, or a link to it, does not): git pull && python convert_hf_to_gguf.py FOLDER",
            "Or install the package of the same checkout: python -m pip install ./gguf-py",
            'See which one is found: python -c "import gguf; print(gguf.__file__)"',
            instead="puna converts the LLaMA family by itself: puna convert FOLDER m.gguf --to gguf --quantize q4_k",
        ),
        ("+gguf", "+no attribute|cannot import name|gguf-py|gguf package", "+convert|package|model_arch", "old|outdated|version"),
    ),
    Cause(
        "mlx-engine-older",
        "files",
        (
            "error when loading model: valueerror: model type {architecture:word} not supported",
            "valueerror: model type {architecture:word} not supported",
            "error:root:model type {architecture:word} not supported",
            "model type {architecture:word} not supported",
            "no module named 'mlx_lm.models.{architecture:name}'",
            "no module named 'mlx_vlm.models.{architecture:name}'",
            "received {count:int} parameters not in model: {tensor:word}",
            "received {count:int} parameters not in model",
            "received parameters not in model",
            "error when loading model: valueerror: missing {missing:int} parameters: {tensor:word}",
        ),
        says(
            (
                "The MLX engine does not know the model type {architecture}: it is older than the model, or does not run this "
                "family.",
                "The model has {count} tensors that the MLX engine does not expect: the engine is older than this kind of "
                "model, or the model was converted for another version of it.",
                "The MLX engine expects {missing} more tensors than the model has, such as {tensor}: the engine is older than "
                "this kind of model, or the model was converted for another version of it.",
                "The MLX engine and the model do not fit: the engine is older than the model, or the model was converted for "
                "another version of it.",
            ),
            "LM Studio: Settings, Runtime, update the MLX engine there, then LM Studio itself. pip does not change it: if its "
            "newest engine does not run the model, wait for the next.",
            "mlx-lm and mlx-vlm themselves: python -m pip install -U mlx-lm mlx-vlm",
            "If it began with an update: choose the version before.",
            "Or take another conversion of the model, or a GGUF of it, which LM Studio runs with llama.cpp.",
            instead="puna runs a GGUF or the original folder of the LLaMA family on the Mac's CPU, and refuses others by name.",
        ),
        ("+mlx", "+model type|parameters", "+not supported|not in model|missing"),
    ),
    Cause(
        "gguf-unknown-architecture",
        "files",
        (
            "unknown model architecture: '{architecture:word}'",
            "unknown model architecture",
            "unsupported model architecture",
            "model architecture not supported",
            "model {architecture:word} is not supported ... convert",
        ),
        explain_architecture,
        ("+architecture", "+not known|unknown|unsupported|not support", "+gguf|llama.cpp|ollama|lm studio", "+model"),
    ),
    Cause(
        "gguf-vocabulary-incomplete",
        "files",
        (
            "error loading model vocabulary: cannot find tokenizer {part:name} in model file",
            "cannot find tokenizer {part:name} in model file",
        ),
        says(
            (
                "The GGUF file has no {part} for its tokenizer. If it is the merges, an old converter mostly made it from a "
                "tokenizer.json of 2024 or later, whose merges are written in another form, and dropped them.",
                "The GGUF file's tokenizer is incomplete.",
            ),
            "Make it again with a current converter: git pull; python convert_hf_to_gguf.py FOLDER (unsloth and the like: "
            "update first)",
            "A file of somebody else's: take another conversion; an adapter (LoRA) is no model by itself.",
            "See what the file has: puna inspect FILE.gguf",
            instead="puna convert FOLDER m.gguf --to gguf reads both forms, and names what a file lacks.",
        ),
        ("+merges|tokenizer", "+gguf|llama", "+cannot find|not found|missing"),
        concept="tokenizer",
    ),
    Cause(
        "gguf-unknown-splitter",
        "files",
        ("unknown pre-tokenizer type: '{splitter:word}'", "unknown pre-tokenizer type", "error loading model vocabulary"),
        says(
            (
                "The program does not know this model's pre-tokenizer ({splitter}): it is older than the model.",
                "The program does not know this model's pre-tokenizer: it is older than the model.",
            ),
            "Update the program.",
            "If you made the file: make it again with the current convert_hf_to_gguf.py.",
            instead=("puna names an unknown pre-tokenizer instead of using another; puna tokenize MODEL TEXT shows the tokens."),
        ),
        ("+pre-tokenizer|pretokenizer", "unknown|vocabulary|type"),
        concept="tokenizer",
    ),
    Cause(
        "safetensors-damaged",
        "files",
        (
            "error while deserializing header: {reason:word}",
            "error while deserializing header",
            "safetensorerror",
            "metadataincompletebuffer",
            "headertoolarge",
            "invalidheaderdeserialization",
            "incomplete metadata, file not fully covered",
            "invalid json in header",
            "invalid utf-8 in header",
            "headertoosmall",
            "header too large",
            "header too small",
        ),
        says(
            (
                "The safetensors file is damaged ({reason}): cut short in the download, a pointer of Git LFS, or an error "
                "page that was saved under its name.",
                "The safetensors file is damaged: cut short in the download, a pointer of Git LFS, or an error page that was "
                "saved under its name.",
            ),
            "See its size and first bytes: ls -l FILE; head -c 100 FILE",
            AGAIN,
            "In the cache of Hugging Face: delete this one file under ~/.cache/huggingface/hub, and load again.",
            instead=INSPECT,
        ),
        ("+safetensor", "+header|corrupt|damaged|incomplete|deserializ", "load|error|file"),
    ),
    Cause(
        "pth-damaged",
        "files",
        (
            "pytorchstreamreader failed ... {reason:word}",
            "pytorchstreamreader failed",
            "failed finding central directory",
            "invalid magic number; corrupt file?",
            "unexpected eof, expected {missing:int} more bytes. the file might be corrupted",
            "_pickle.unpicklingerror: invalid load key",
        ),
        says(
            "The .pth or .bin file is damaged or incomplete: its end, with the zip directory, is missing.",
            "Compare its size with the source's: ls -l FILE; Meta's folders bring checklist.chk: md5sum -c checklist.chk",
            AGAIN,
            instead=INSPECT,
        ),
        ("+pth|checkpoint|pytorchstreamreader", "+corrupt|damaged|central directory|unexpected eof|incomplete", "load|file|zip"),
    ),
    Cause(
        "torch-load-needs-newer",
        "files",
        (
            "due to a serious vulnerability issue in `torch.load`",
            "we now require users to upgrade torch to at least v{wanted:word}",
        ),
        says(
            "The model's weights are a pickle (.bin, .pth), and this transformers loads those only with PyTorch 2.6 or later: "
            "older versions can run any program that is in such a file (CVE-2025-32434).",
            "Update PyTorch: python -m pip install -U torch",
            "Or take the safetensors of the same model: they need no newer PyTorch.",
            instead="puna reads .pth and .bin with a reader of its own that can make nothing but tensors.",
        ),
        ("+torch.load", "+vulnerability|cve-2025-32434", "upgrade|2.6"),
    ),
    Cause(
        "weights-only",
        "files",
        (
            "weights only load failed",
            "weightsunpickler error",
            "unsupported global: global {name:word} was not an allowed global",
        ),
        says(
            "The checkpoint is a pickle that holds more than tensors. PyTorch since 2.6 loads tensors only, because a pickle "
            "can run any program when it is loaded.",
            "Use the safetensors of the same model, which hold only tensors.",
            '"Unsupported operand" means that the file is not a pickle: it is damaged, or is a web page or a pointer.',
            "Only for a file that you made yourself: torch.load(FILE, weights_only=False)",
            instead="puna reads .pth and .bin with a reader of its own that can make nothing but tensors.",
        ),
        ("+weights_only|weights only", "torch.load|pickle|fail"),
    ),
    Cause(
        "checkpoint-from-cuda",
        "files",
        (
            "attempting to deserialize object on a cuda device but torch.cuda.is_available() is false",
            "attempting to deserialize object on cuda device",
        ),
        says(
            "The checkpoint was saved from a GPU, but PyTorch sees no GPU here (or fewer).",
            "Load it into main memory: torch.load(FILE, map_location='cpu')",
            'If there is a GPU: python -c "import torch; print(torch.version.cuda, torch.cuda.is_available())" says whether '
            "PyTorch can use it.",
            remedy="replace-torch",
            instead=AS_IT_IS,
        ),
        ("+deserializ|torch.load|map_location", "+cuda", "cpu|available|device"),
    ),
    Cause(
        "state-dict-mismatch",
        "files",
        (
            "size mismatch for {tensor:word}: copying a param with shape torch.size([{saved:shape}]) from checkpoint, the shape "
            "in current model is torch.size([{wanted:shape}])",
            "size mismatch for {tensor:word}: copying a param with shape",
            "size mismatch for layers.",
            "size mismatch for model.",
            "error(s) in loading state_dict for {model:word}",
            "missing key(s) in state_dict",
            "unexpected key(s) in state_dict",
            "missing {count:int} parameters: {tensor:word}",
        ),
        says(
            (
                "The weights are not those of this configuration: {tensor} is [{saved}] in the file, but [{wanted}] in the "
                "program.",
                "The weights are not those of this configuration: {tensor} has another shape in the file than in the program.",
                "The weights are not those of this configuration: names or shapes in the file differ from the program's.",
            ),
            "Compare params.json or config.json with the file: the number of heads, of K and V heads, the vocabulary.",
            "If embed_tokens or lm_head differ by a few rows, tokens were added: model.resize_token_embeddings(ROWS) before the "
            "weights are loaded, with as many rows as the file has.",
            "An adapter (LoRA) needs the base model that it was made for.",
            instead="puna compares every tensor with the configuration before it loads any, and names what does not fit.",
        ),
        ("+state_dict|state dict|size mismatch", "+shape|key|keys|mismatch|missing", "+load|checkpoint|param"),
    ),
    Cause(
        "params-json-key",
        "files",
        (
            "__init__() got an unexpected keyword argument '{key:word}' ... modelargs",
            "modelargs.__init__() got an unexpected keyword argument '{key:word}'",
            "got an unexpected keyword argument 'rope_theta'",
            "got an unexpected keyword argument 'use_scaled_rope'",
            "got an unexpected keyword argument 'ffn_dim_multiplier'",
            "got an unexpected keyword argument 'n_kv_heads'",
        ),
        says(
            "params.json holds a key that the program does not know: the model is newer than the program. rope_theta is "
            "CodeLlama's and Llama 3's, use_scaled_rope Llama 3.1's.",
            "Use the program that belongs to the model: the repository codellama, llama3 or llama-models.",
            "Do not delete the key: without it the positions are wrong. Short answers look right, long ones do not.",
            instead='puna knows these keys: puna run FOLDER "..."; puna inspect lists keys that it does not use.',
        ),
        ("+rope_theta|use_scaled_rope|params.json", "+unexpected|keyword|unknown|rejected|argument"),
    ),
    Cause(
        "rope-scaling-fields",
        "files",
        (
            "`rope_scaling` must be a dictionary with two fields",
            "`rope_scaling` must be a dictionary with with two fields",
            "rope_scaling must be a dictionary with",
            "`rope_scaling`'s type field must be one of",
        ),
        says(
            "config.json describes Llama 3.1's RoPE scaling, but this transformers is older (before 4.43).",
            "Update it: pip install -U 'transformers>=4.43'",
            "Do not cut rope_scaling down to two fields: long contexts would be wrong.",
            instead="puna knows linear, dynamic, yarn and llama3 scaling.",
        ),
        ("+rope_scaling|rope scaling", "+dictionary|field|type", "llama 3|llama3|transformers|factor"),
        concept="rope",
    ),
    Cause(
        "missing-config-json",
        "files",
        (
            "{folder:path} does not appear to have a file named config.json",
            "does not appear to have a file named config.json",
            "can't load the configuration of",
            "no such file or directory: '{folder:path}config.json'",
        ),
        says(
            (
                "{folder} has no config.json: it is a checkpoint in Meta's format (consolidated.NN.pth, params.json), which "
                "transformers and the converters of llama.cpp do not read.",
                "The folder has no config.json: it is a checkpoint in Meta's format (consolidated.NN.pth, params.json), "
                "which transformers and the converters of llama.cpp do not read.",
            ),
            "Use the model whose name ends in -hf: meta-llama/Llama-2-7b-hf. It is the same model in the other format.",
            "Or convert: puna convert llama-2-7b/ llama-2-7b-hf/ --to safetensors",
            instead='puna reads Meta\'s folders as they are: puna run llama-2-7b/ "..."',
        ),
        ("+config.json", "+no |not find|cannot find|missing|not found|does not", "llama|transformers|hugging|folder"),
    ),
    Cause(
        "missing-weights-file",
        "files",
        (
            "error no file named {file:word} ... found in directory {folder:path}",
            "error no file named pytorch_model.bin",
            "error no file named model.safetensors",
            "does not appear to have a file named pytorch_model",
            "no such file or directory: '{file:path}consolidated.",
            "failed to open gguf file '{file:path}'",
            "failed to open gguf file",
            "file not found: tokenizer.model",
        ),
        says(
            (
                "The folder {folder} holds no weights in Hugging Face's format: they were not fetched, or it is Meta's "
                "format or a GGUF.",
                "The folder holds no weights in Hugging Face's format: they were not fetched, or it is Meta's format or a GGUF.",
            ),
            "See what is there: ls -l FOLDER",
            "Cloned with git: git lfs pull fetches the weights.",
            instead=AS_IT_IS,
        ),
        ("+pytorch_model|model.safetensors|weights", "+no file|missing|not found", "folder|directory"),
    ),
    Cause(
        "gated-model",
        "files",
        (
            "you are trying to access a gated repo",
            "cannot access gated repo for url {url:path}",
            "gatedrepoerror",
            "is awaiting a review from the repo authors",
            "access to model {model:word} is restricted",
        ),
        says(
            (
                "Only those who accepted its license on the Hub may fetch {model}, and you are not signed in, or not "
                "admitted yet.",
                "Only those who accepted its license on the Hub may fetch the model, and you are not signed in, or not "
                "admitted yet.",
            ),
            "Accept the license on the model's page, and wait for the approval.",
            "Sign in on this machine: hf auth login (older: huggingface-cli login), or export HF_TOKEN=...",
            instead="puna uses the same sign-in; models without a gate, such as SmolLM2 or TinyLlama, need none.",
        ),
        ("+gated|401|403|restricted", "+huggingface|hf|llama", "+model|repo|access"),
    ),
    Cause(
        "hub-unreachable",
        "files",
        (
            "couldn't connect to 'https://huggingface.co'",
            "couldn't connect to '{url:path}' to load the files",
            "outgoing traffic has been disabled",
            "host='huggingface.co', port=443",
            "localentrynotfounderror",
        ),
        says(
            "The program could not reach the Hub, and the file is not in the cache: there is no network, a proxy is in the "
            "way, or offline mode is on.",
            "Check that the server answers: curl -I https://huggingface.co",
            "Behind a proxy: export HTTPS_PROXY=http://HOST:PORT. Offline mode is set by HF_HUB_OFFLINE.",
            instead='puna runs files on the disk without any network: puna run model.gguf "..."',
        ),
        ("+huggingface|hugging face", "+connect|unreachable|offline|network|timeout", "+not|cannot|can't|fail|error"),
    ),
    Cause(
        "download-incomplete",
        "files",
        (
            "consistency check failed: file should be of size {expected:int} but has size {got:int} ({file:path}",
            "consistency check failed: file should be of size",
        ),
        says(
            (
                "The download of {file} broke off: {got} of {expected} bytes arrived.",
                "A download broke off: the file is shorter than the Hub says.",
            ),
            "Fetch it again, which resumes: hf download OWNER/NAME (older: huggingface-cli download)",
            "If it breaks off each time: check the disk, df -h ~, and whether a proxy limits downloads.",
            instead="puna pull goes on where a download broke off, and checks its sha256.",
        ),
        ("+consistency check|download", "+size", "+fail|shorter|interrupt", "+huggingface|model|safetensors|gguf"),
    ),
    Cause(
        "hub-file-absent",
        "files",
        (
            "404 client error. ... entry not found for url",
            "entry not found for url: https://huggingface.co",
            "entrynotfounderror",
            "revisionnotfounderror",
            "remoteentrynotfounderror",
            "revision not found for url",
            "does not appear to have a file named",
            "no file found in repo",
            "head invalid http status code received: 404",
        ),
        says(
            "The repository exists, but not this file or revision: the name is misspelt, or the file has "
            "another name (parts, another quantisation, another folder).",
            "See which files there are: hf download OWNER/REPO --dry-run, or the page's tab Files.",
            "Write the name exactly, with folder and capital letters.",
            instead="puna plan hf:OWNER/REPO lists what the repository holds.",
        ),
        ("+entry not found|file not found|revision", "+huggingface|hub"),
    ),
    Cause(
        "code-in-repository",
        "files",
        (
            "the repository {name:path} contains custom code which must be executed",
            "contains custom code which must be executed to correctly load the model",
            "please pass the argument `trust_remote_code=true`",
            "set the option `trust_remote_code=true` to remove this error",
        ),
        says(
            (
                "The model {name} contains its own Python code, which transformers runs only if you allow it.",
                "The model contains its own Python code, which transformers runs only if you allow it.",
            ),
            "See whether a newer transformers has the model built in: pip install -U transformers",
            "Otherwise read the code on the model's page first, since it may do anything here; then trust_remote_code=True, with "
            "a fixed revision=COMMIT.",
            instead="puna runs no code from models: it has its own code for the LLaMA family, and refuses others by name.",
        ),
        (
            "+trust_remote_code|trust remote code|custom code",
            "+transformers|model|huggingface",
            "+pass|require|refuse|error|execut",
        ),
    ),
    Cause(
        "unknown-model-type",
        "files",
        (
            "checkpoint you are trying to load has model type `{type:word}`",
            "but transformers does not recognize this architecture",
            "the checkpoint you are trying to load has model type",
            "should have a `model_type` key in its config.json",
            "unrecognized model in {folder:path}",
            "unrecognized configuration class",
            "keyerror: 'mistral'",
            "keyerror: 'llama'",
            "keyerror: 'qwen2'",
            "keyerror: 'qwen3'",
            *(f"keyerror: '{family}'" for family in FAMILIES),
        ),
        says(
            (
                "This transformers does not know the model type {type}: it is older than the model.",
                "This transformers does not know the model's type: it is older than the model, or config.json does not name one.",
            ),
            "Update it: pip install -U transformers",
            instead="puna runs the LLaMA family by itself, and refuses what it does not run by name.",
        ),
        ("+transformers|model type|model_type", "+not recogni|unrecogni|unknown model"),
    ),
    Cause(
        "not-a-model-name",
        "files",
        (
            "{name:path} is not a local folder and is not a valid model identifier",
            "is not a valid model identifier listed on",
            "repo id must be in the form 'repo_name' or 'namespace/repo_name'",
            "incorrect path_or_model_id",
            "repository not found for url",
            "can't load tokenizer for '{name:path}'",
            "can't load the model for '{name:path}'",
            "can't load tokenizer for",
            "repo id must use alphanumeric chars",
            "hfvalidationerror",
        ),
        says(
            (
                "{name} is neither a folder here nor a model on the Hub: the path is wrong from this folder, or the name is "
                "misspelt.",
                "The name is neither a folder here nor a model on the Hub: the path is wrong from this folder, or the name "
                "is misspelt.",
            ),
            "See whether the folder is there: ls -d PATH; write the whole path.",
            "A private or gated model looks the same to those who are not signed in: hf auth whoami",
            instead="puna says which of the two it looked for.",
        ),
        ("+model identifier|repo id", "+valid|not found|wrong", "+hub|hugging"),
    ),
    Cause(
        "grouped-query-export",
        "files",
        (
            "shape '[{heads:int}, 2, {half:int}, {columns:int}]' is invalid for input of size {size:int}",
            "w.view(n_heads, 2, dim1 // n_heads // 2, dim2)",
        ),
        says(
            "A matrix of K or V is smaller than the program expects: the model shares K and V among several heads "
            "(grouped-query attention), and the program assumes one K head for each head. llama2.c's export.py --hf does "
            "that; transformers before 4.31 did it with Llama 2 70B.",
            "Update the program; for llama2.c, convert with puna: puna convert FOLDER model.bin --to llama2c",
            instead="puna reads and writes grouped-query models in all its formats.",
        ),
        ("+n_kv_heads|grouped-query|grouped query|gqa", "+shape|invalid|export"),
        concept="attention",
    ),
)
