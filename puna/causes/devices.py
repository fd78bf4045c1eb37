"""Tensors that do not fit: devices, types, shapes, and values that are not numbers."""

from __future__ import annotations

from puna.causes.base import Cause, says

CAUSES = (
    Cause(
        "mixed-devices",
        "devices",
        (
            "expected all tensors to be on the same device, but found at least two devices, {one:device} and {other:device}",
            "expected all tensors to be on the same device",
            "input, output and indices must be on the current device",
            "expected all tensors to be on the same device, but got {name:name} is on {one:device}, different from other tensors "
            "on {other:device}",
            "input type (torch.{one:word}) and weight type (torch.{other:word}) should be the same",
            "expected object of device type cuda but got device type cpu",
        ),
        says(
            (
                "One operation was given tensors on {one} and on {other}. Nearly always the model is on the GPU and the "
                "token ids stayed on the CPU, where the tokenizer makes them.",
                "One operation was given tensors of two devices. Nearly always the model is on the GPU and the token ids "
                "stayed on the CPU, where the tokenizer makes them.",
            ),
            'Move the inputs to the model: inputs = tokenizer(prompt, return_tensors="pt").to(model.device)',
            'With device_map="auto" on several cards, do not call model.to(...) afterwards, and send the inputs to the first '
            "one.",
            instead=(
                'puna keeps a model and its inputs together: puna run MODEL "..."; in Python: LLM.load(MODEL).generate("...")'
            ),
        ),
        ("+tensor", "+device|cuda:0|gpu", "+cpu|different device|two devices|one device|same device", "same|must|both|expected"),
    ),
    Cause(
        "operation-lacks-type",
        "devices",
        (
            "\"{operation:name}_cuda{rest:name}\" not implemented for '{type:name}'",
            "\"{operation:name}_cuda\" not implemented for '{type:name}'",
            "cuda\" not implemented for '{type:name}'",
            "not implemented for 'float8_e4m3fn'",
            "not implemented for 'float8_e5m2'",
            "not implemented for 'uint16'",
            "could not infer dtype of numpy",
        ),
        says(
            (
                "This PyTorch has no {operation} for the type {type} on the GPU: it is older than the program expects, or the "
                "weights must be converted first.",
                "This PyTorch lacks an operation for this type: it is older than the program expects, or the weights must be "
                "converted first.",
            ),
            "Update PyTorch: python -m pip install -U torch",
            "Load the model in another type: from_pretrained(..., dtype=torch.float16), or torch.bfloat16",
            instead="puna converts where types meet; a checkpoint may mix them.",
        ),
        ("+not implemented for", "+cuda|float8", "bfloat16|torch"),
        concept="quantisation",
    ),
    Cause(
        "half-on-cpu",
        "devices",
        (
            "\"{operation:word}\" not implemented for 'half'",
            "not implemented for 'half'",
            "not implemented for 'bfloat16'",
            "fp16 mixed precision requires a gpu",
        ),
        says(
            (
                "The operation {operation} does not exist for half precision on the CPU in this PyTorch: a float16 model was "
                "loaded, and runs on the CPU.",
                "An operation does not exist for half precision on the CPU in this PyTorch: a float16 model runs on the CPU.",
            ),
            "On the CPU load it as float32 (twice the memory) or bfloat16: torch_dtype=torch.bfloat16",
            "Or move it to the GPU, if it was meant to run there: model.to('cuda')",
            "Newer versions of PyTorch have most of these operations.",
            instead='puna runs float16 and bf16 checkpoints on the CPU as they are: puna run MODEL "..." --device cpu',
        ),
        ("+half|float16|fp16", "+not implemented|does not exist|not support", "cpu|addmm|layernorm"),
        concept="quantisation",
    ),
    Cause(
        "meta-tensors",
        "devices",
        (
            "cannot copy out of meta tensor; no data",
            "is on the meta device",
            "on device meta is not on the expected device",
            "cannot be called on meta tensors",
            "tensor.item() cannot be called on meta",
            "you can't move a model that has some modules offloaded to cpu or disk",
            "you can't move a model when it is dispatched on multiple devices",
            "some modules are dispatched on the cpu or the disk",
            ".to` is not supported for `4-bit` or `8-bit` bitsandbytes models",
            "is not supported for `4-bit` or `8-bit`",
        ),
        says(
            "Part of the model has no data on this device: transformers and accelerate put it elsewhere (another card, main "
            "memory, disk), or a layer got no weights from the file. Such a model, and a 4-bit or 8-bit one, must not be "
            "moved.",
            'Load it directly on its device, device_map="cuda:0", and do not call model.to(...) afterwards.',
            "If it does not fit the card: fewer bits per weight, or a smaller model.",
            "If it happens while loading: the file lacks tensors, or transformers and accelerate do not fit; update both.",
            instead="puna plans before it loads: puna plan MODEL shows what goes where.",
        ),
        ("+meta tensor|meta device|offloaded|dispatched", "+move|copy|cannot|not supported"),
    ),
    Cause(
        "lora-target-modules",
        "devices",
        (
            "target modules {modules:word} not found in the base model",
            "target modules ... not found in the base model",
            "please specify `target_modules` in `peft_config`",
            "please specify target_modules in peft_config",
            "no modules were targeted for adaptation",
            "is not supported. currently, only the following modules are supported: `torch.nn.linear`",
        ),
        says(
            "peft looks for layers by name (target_modules), and this model has none of those names.",
            'Let it take all linear layers: LoraConfig(target_modules="all-linear")',
            "Or see the names: print(model); LLaMA has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.",
            "If the list is empty: the model was wrapped by peft before, or is quantised in a way that peft does not know.",
            instead="puna runs models and does not train them.",
        ),
        ("+target_modules|target modules", "+not found|specify", "peft|lora|base model"),
    ),
    Cause(
        "dtype-mismatch",
        "devices",
        (
            "mat1 and mat2 must have the same dtype, but got {one:word} and {other:word}",
            "mat1 and mat2 must have the same dtype",
            "expected mat1 and mat2 to have the same dtype, but got: {one:word} != {other:word}",
            "expected m1 and m2 to have the same dtype, but got: {one:word} != {other:word}",
            "expected scalar type {one:word} but found {other:word}",
            "query, key, and value to have the same dtype",
            "self and mat2 must have the same dtype, but got {one:word} and {other:word}",
            "input and weight must have the same dtype",
            "flashattention only support fp16 and bf16 data type",
            "flash attention only supports fp16 and bf16",
            "flash attention 2 only supports torch.float16 and torch.bfloat16",
        ),
        says(
            (
                "Two tensors of one operation have different types: {one} and {other}. Part of the model (an adapter, a "
                "norm, the last layer) or the input has another type than the rest.",
                "Two tensors of one operation have different types: part of the model or the input has another type than the "
                "rest.",
            ),
            "Load everything in one type: from_pretrained(..., torch_dtype=torch.float16), and adapters likewise.",
            "Or let PyTorch convert: with torch.autocast('cuda'): ...",
            instead="puna converts where types meet; a checkpoint may mix them.",
        ),
        ("+dtype|scalar type|data type", "+same dtype|different|mismatch|but found|but got", "+half|float16|bfloat16|mat1"),
        concept="quantisation",
    ),
    Cause(
        "shapes-do-not-multiply",
        "devices",
        ("mat1 and mat2 shapes cannot be multiplied ({one:word} and {other:word})", "mat1 and mat2 shapes cannot be multiplied"),
        says(
            (
                "A matrix of {one} meets one of {other}: the weights do not belong to this configuration, or quantised "
                "weights are used as if they were plain (4-bit weights have another shape).",
                "Two matrices do not fit: the weights do not belong to this configuration, or quantised weights are used as "
                "if they were plain.",
            ),
            "See that config.json is the one of these weights.",
            "With 4-bit weights: load them with the quantisation that made them, and do not call .to(dtype).",
            instead="puna compares every tensor with the configuration before it loads any, and names what does not fit.",
        ),
        ("+mat1|matmul", "+shape", "+multipl"),
        concept="quantisation",
    ),
    Cause(
        "token-id-out-of-range",
        "devices",
        (
            "torch.embedding ~~~ indexerror: index out of range in self",
            "f.embedding ~~~ indexerror: index out of range in self",
            "index out of range in self",
        ),
        says(
            "A token id exceeds the rows of the embedding: the tokenizer belongs to another model, or tokens were added and the "
            "embedding was not enlarged.",
            "Compare the two numbers: len(tokenizer), and model.get_input_embeddings().num_embeddings",
            "After adding tokens: model.resize_token_embeddings(len(tokenizer))",
            instead="puna refuses an id outside of the vocabulary before anything runs.",
        ),
        ("+index out of range", "+embedding|token"),
        concept="tokenizer",
    ),
    Cause(
        "temperature-zero",
        "devices",
        (
            "`temperature` (={value:number}) has to be a strictly positive float",
            "has to be a strictly positive float, otherwise your next token scores will be invalid",
        ),
        says(
            "transformers does not sample at temperature 0: it would divide by it.",
            "Always use the likeliest token: do_sample=False, and leave temperature out.",
            instead="puna takes --temperature 0 as what it means: the likeliest token each time.",
        ),
        ("+temperature", "+strictly positive|zero|0.0"),
        concept="sampling",
    ),
    Cause(
        "fp16-gradients",
        "devices",
        ("attempting to unscale fp16 gradients",),
        says(
            "In training, the weights that learn are in float16, and so are their gradients. The scaler of mixed "
            "precision (fp16=True) needs them in float32.",
            "Load the model in float32, or make the trained weights float32: for p in model.parameters(): if p.requires_grad: "
            "p.data = p.data.float()",
            "On a card of compute capability 8.0 or later use bf16=True instead of fp16=True: bf16 needs no scaler.",
            instead="puna runs models and trains none.",
        ),
        ("+fp16|float16|half", "+gradient", "unscale|scaler|grad"),
    ),
    Cause(
        "not-finite",
        "devices",
        (
            "probability tensor contains either `inf`, `nan` or element < 0",
            "probability tensor contains either",
            "logits contain nan",
            "logits are not finite",
        ),
        says(
            "The logits are not finite (inf or nan) when a token is sampled. Known reasons: a bf16 model that runs in float16 "
            "and overflows; weights that are damaged or quantised wrongly; padding on the left that masks a whole row; GPUs "
            "that copy wrongly to each other.",
            "Run it in the type that it was trained in: torch_dtype=torch.bfloat16, or float32 to test this.",
            "See whether one row alone works, without padding.",
            "On several cards: see whether one card alone works, then NCCL_P2P_DISABLE=1.",
            instead=(
                "puna ends only the request with such logits, says so, and puna inspect MODEL --weights finds weights that "
                "are not."
            ),
        ),
        ("+nan|inf", "+probabilit|logits|multinomial", "+error|contain|fail|generat|crash"),
        concept="quantisation",
    ),
)
