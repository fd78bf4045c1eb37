"""Tokenizers and chat templates."""

from __future__ import annotations

from puna.causes.base import Cause, says

OWN = (
    "puna reads tokenizer.json, SentencePiece's and Llama 3's tokenizer.model by itself: puna tokenize MODEL TEXT shows the "
    "tokens."
)

CAUSES = (
    Cause(
        "tokenizer-class-missing",
        "tokenizer",
        (
            "tokenizer class {name:word} does not exist or is not currently imported",
            "tokenizer class {name:word} is not currently imported",
        ),
        says(
            (
                "tokenizer_config.json names the class {name}, which this transformers does not have. LLaMATokenizer is the "
                "misspelling of early conversions of March 2023.",
                "tokenizer_config.json names a class that this transformers does not have.",
            ),
            "Where the name is LlamaTokenizer: it needs sentencepiece, and a transformers of April 2023 or later: "
            "pip install -U transformers sentencepiece protobuf",
            'Where it is LLaMATokenizer: write "tokenizer_class": "LlamaTokenizer" into tokenizer_config.json.',
            instead=OWN,
        ),
        ("+llamatokenizer|tokenizer class|tokenizer_class", "+not exist|not import|missing|not found"),
    ),
    Cause(
        "tokenizer-json-too-new",
        "tokenizer",
        ("data did not match any variant of untagged enum {name:word}", "untagged enum modelwrapper"),
        says(
            "tokenizer.json was written by a newer version of the library tokenizers than the one that reads it.",
            "Update both: pip install -U transformers tokenizers",
            instead=OWN,
        ),
        ("+untagged enum|modelwrapper", "+tokenizer|variant"),
    ),
    Cause(
        "sentencepiece-missing",
        "tokenizer",
        (
            "{name:word} requires the sentencepiece library but it was not found",
            "requires the sentencepiece library",
            "couldn't instantiate the backend tokenizer",
            "converting from sentencepiece and tiktoken failed",
            "converting from tiktoken failed",
            "cannot import name 'llamatokenizer' from 'transformers",
            "no module named 'sentencepiece'",
            "no module named 'tiktoken'",
        ),
        says(
            "The tokenizer is a tokenizer.model, and the library that reads it (sentencepiece; tiktoken for Llama 3) is not "
            "installed, or the file is not there.",
            "Install them: pip install sentencepiece tiktoken protobuf",
            "See that tokenizer.model or tokenizer.json lies beside the weights.",
            instead=OWN,
        ),
        ("+sentencepiece|tiktoken", "+not found|missing|require|not installed", "+tokenizer|llamatokenizer"),
    ),
    Cause(
        "not-a-sentencepiece-model",
        "tokenizer",
        (
            "could not parse modelproto from {file:path}",
            "could not parse modelproto",
            "model_proto->parsefromarray(serialized.data(), serialized.size())",
        ),
        says(
            "This tokenizer.model is not SentencePiece's: Llama 3's has the same name and is a list of tokens for tiktoken; or "
            "it is a pointer of Git LFS, an error page, or cut short.",
            "See which: head -c 120 tokenizer.model. It begins with 'version https://git-lfs': a pointer. Each line is letters "
            "and a number: Llama 3.",
            "Llama 3: take the folder in Hugging Face's format, whose tokenizer.json current versions of transformers read; "
            "old programs for Llama 2 cannot.",
            "A pointer: git lfs install && git lfs pull. Otherwise fetch the file again.",
            instead=OWN,
        ),
        ("+sentencepiece|modelproto|tokenizer.model", "+parse|modelproto", "tokenizer|llama|load|error"),
    ),
    Cause(
        "double-bos",
        "tokenizer",
        (
            "prompt also starts with a bos token",
            "so now the final prompt starts with {count:int} bos tokens",
            'detected duplicate leading "{token:path}" in prompt',
        ),
        says(
            "The prompt begins with two BOS tokens: the chat template writes one as text, and the tokenizer adds another. "
            "Answers get worse.",
            "Text that a template made is tokenised without special tokens: tokenizer(text, add_special_tokens=False)",
            "In vLLM give token ids, or the messages to its chat method; in llama-cpp-python leave the BOS out of your own "
            "prompt.",
            instead=(
                "puna adds one BOS only, and puna inspect MODEL says where a model's template and its settings would make two."
            ),
        ),
        ("+bos", "+two|double|2|twice|duplicate|again", "token|prompt|template"),
        role="symptom",
    ),
    Cause(
        "no-chat-template",
        "tokenizer",
        (
            "cannot use chat template functions because tokenizer.chat_template is not set",
            "cannot use apply_chat_template",
            "no chat template is defined for this tokenizer",
            "default chat template is no longer allowed",
            "as of transformers v4.44, default chat template is no longer allowed",
        ),
        says(
            "The model brings no chat template: it is a base model, which continues texts, or its conversion left the "
            "template out.",
            "For a conversation take the model whose name ends in -chat or -Instruct.",
            "A base model: give it the text to continue, without apply_chat_template.",
            instead=(
                "puna guesses a built-in template from the control tokens and says so; others: --template llama2, or --raw "
                "to continue a text."
            ),
        ),
        (
            "+chat template|chat_template",
            "+not set|missing|no chat|without|not defined|does not have",
            "+tokenizer|apply|transformers|vllm|error|throws|fail",
        ),
    ),
    Cause(
        "no-pad-token",
        "tokenizer",
        ("asking to pad but the tokenizer does not have a padding token", "using pad_token, but it is not set yet"),
        says(
            "Several texts are to be made equally long, and LLaMA's tokenizer has no token for that.",
            "tokenizer.pad_token = tokenizer.eos_token; tokenizer.padding_side = 'left'",
            "Give the attention mask along, or the padding changes the answers.",
            instead="puna never pads: rows of any lengths run together, and each answer is what it would be alone.",
        ),
        ("+pad_token|padding token|pad token", "+not set|no |does not have|missing|without"),
    ),
    Cause(
        "right-padding",
        "tokenizer",
        ("right-padding was detected", "a decoder-only architecture is being used, but right-padding was detected"),
        says(
            "Shorter texts of the batch were filled up on the right: the model goes on after the filling, and the answers "
            "are wrong.",
            "tokenizer.padding_side = 'left' before tokenising.",
            instead="puna never pads: each answer of a batch is what it would be alone.",
        ),
        ("+padding|padded", "+right", "+decoder|tokenizer|generat"),
        role="symptom",
    ),
    Cause(
        "slow-tokenizer",
        "tokenizer",
        (
            "using a slow tokenizer. this might cause a significant slowdown",
            "using a slow tokenizer",
            "you are using the default legacy behaviour of the <class",
            "the sentencepiece tokenizer that you are converting to a fast tokenizer",
        ),
        says(
            "The tokenizer is SentencePiece's, run by Python or converted at each start: slow, and for some models "
            "(OpenLLaMA) the converted one splits words otherwise.",
            "Save the converted one once: tokenizer.save_pretrained(FOLDER), which holds tokenizer.json then.",
            "For OpenLLaMA stay with the slow one: use_fast=False",
            instead=OWN,
        ),
        ("+slow tokenizer|fast tokenizer|use_fast", "+slow|wrong|minutes|seconds|incorrect|convert"),
        role="symptom",
    ),
    Cause(
        "text-too-long",
        "tokenizer",
        (
            "token indices sequence length is longer than the specified maximum sequence length for this model ({tokens:int} "
            "> {limit:int})",
            "token indices sequence length is longer than",
            "this model's maximum context length is {limit:int} tokens",
            "is longer than the model's context length",
        ),
        says(
            (
                "The text has more tokens ({tokens}) than the model was made for ({limit}).",
                "The text has more tokens than the model was made for ({limit}).",
                "The text has more tokens than the model was made for.",
            ),
            "Shorten it, or take a model with a longer context; beyond its limit a model writes nonsense.",
            instead="puna counts first, and names both numbers: puna tokenize MODEL - < FILE",
        ),
        ("+token", "+longer than|too long|maximum context|exceed", "+context|sequence length|max length", "model|prompt|limit"),
    ),
)
