"""Tokenizers and chat templates."""

from __future__ import annotations

from puna.causes.base import Captures, Cause, Explanation, says

OWN = (
    "puna reads tokenizer.json, SentencePiece's and Llama 3's tokenizer.model by itself: puna tokenize MODEL TEXT shows the "
    "tokens."
)

SENDER = (
    "The messages do not fit this model; the model is not broken. A program or agent sent a list for another model: "
    "update it, or switch off what adds messages."
)
OTHER_TEMPLATE = (
    "Or use another template: llama-server --jinja --chat-template-file FILE; LM Studio: the model's settings, Prompt Template."
)
TEMPLATES = "puna reports the template's own refusal; to use another template: puna chat MODEL --template chatml"


# Classes that transformers 5 writes into tokenizer_config.json.
OF_TRANSFORMERS_5 = frozenset(("tokenizersbackend", "sentencepiecebackend", "pythonbackend", "mistralcommonbackend"))


def explain_class(numbers: Captures) -> Explanation:
    """A class in tokenizer_config.json that this transformers lacks: it is of a later one, misspelt, or the model's own."""
    name = numbers.get("name", "")
    if name.lower() in OF_TRANSFORMERS_5:
        told = (
            f"tokenizer_config.json was saved by transformers 5, whose class {name} the installed transformers 4 does not have."
        )
        cure: tuple[str, ...] = (
            "Update it, and what runs the model with it (mlx-lm, vLLM, LLaMA-Factory ...): python -m pip install -U transformers",
            'Or write into tokenizer_config.json the class that version 4 reads: "tokenizer_class": "PreTrainedTokenizerFast". '
            "tokenizer.json, which holds all of the tokenizer, stays as it is.",
        )
    elif name == "LLaMATokenizer":
        told = "tokenizer_config.json names LLaMATokenizer, a misspelling of conversions of March 2023."
        cure = ('Write "tokenizer_class": "LlamaTokenizer" into tokenizer_config.json.', WITH_SENTENCEPIECE)
    else:
        told = (
            f"tokenizer_config.json names {f'the class {name}' if name else 'a class'}, which this transformers does not have: "
            "it is older than the model, the class is the model's own code, or a library that the class needs is missing."
        )
        cure = (
            "Update: python -m pip install -U transformers",
            "If the model's folder or page brings Python files, the class is in them: trust_remote_code=True, after reading "
            "them.",
            f"If the name is LlamaTokenizer: {WITH_SENTENCEPIECE[0].lower()}{WITH_SENTENCEPIECE[1:]}",
        )
    return Explanation(told, cure, instead=OWN, numbers=numbers)


WITH_SENTENCEPIECE = (
    "It needs sentencepiece, and a transformers of April 2023 or later: pip install -U transformers sentencepiece protobuf"
)


CAUSES = (
    Cause(
        "tokenizer-class-missing",
        "tokenizer",
        (
            "tokenizer class {name:word} does not exist or is not currently imported",
            "tokenizer class {name:word} is not currently imported",
            "_set_model_specific_special_tokens ~~~ has no attribute 'keys'",
        ),
        explain_class,
        ("+llamatokenizer|tokenizer class|tokenizer_class", "+not exist|not import|missing|not found"),
        concept="tokenizer",
    ),
    Cause(
        "tokenizer-regex",
        "tokenizer",
        ("with an incorrect regex pattern", "fix_mistral_regex"),
        says(
            "transformers warns that tokenizer.json cuts texts by a wrong expression. That is true of Mistral's models of 2025 "
            "and what was made of them; some versions (4.57) say it of any model in a local folder, where it is wrong.",
            "A Mistral, or a model made of one: AutoTokenizer.from_pretrained(..., fix_mistral_regex=True), then "
            "save_pretrained once.",
            "Any other model (Qwen, Llama, Gemma): leave it; the ids are the same. Newer versions check better: "
            "python -m pip install -U transformers",
            instead="puna cuts texts as the model's own tokenizer.json says: puna tokenize MODEL TEXT shows it.",
        ),
        ("+regex pattern|fix_mistral_regex", "+tokenizer|incorrect"),
        role="symptom",
        concept="tokenizer",
    ),
    Cause(
        "mistral-tokenizer-missing",
        "tokenizer",
        (
            "make sure that a mistral tokenizer is present in",
            "found 0 files matching the pattern: re.compile('^tokenizer",
            "no tokenizer file found in directory ... tekken",
        ),
        says(
            "The program looks for Mistral's own tokenizer (tekken.json or tokenizer.model.v3), because it was told to "
            "(--tokenizer-mode mistral) or took the model for Mistral's form; the folder has Hugging Face's tokenizer.json only.",
            "Leave these out, all three: --tokenizer-mode mistral, --config-format mistral, --load-format mistral",
            "Or fetch the file from the model's own repository: hf download OWNER/REPO tekken.json --local-dir FOLDER",
            instead=OWN,
        ),
        ("+mistral tokenizer|tekken", "+not found|found 0|missing|present"),
        concept="tokenizer",
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
        concept="tokenizer",
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
            "The tokenizer is a tokenizer.model, but its library (sentencepiece; tiktoken for Llama 3) is not "
            "installed, or the file is not there.",
            "Install them: pip install sentencepiece tiktoken protobuf",
            "See that tokenizer.model or tokenizer.json lies beside the weights.",
            instead=OWN,
        ),
        ("+sentencepiece|tiktoken", "+not found|missing|require|not installed", "+tokenizer|llamatokenizer"),
        concept="tokenizer",
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
            "This tokenizer.model is not SentencePiece's: it is Llama 3's tiktoken list of the same name; or "
            "it is a pointer of Git LFS, an error page, or cut short.",
            "See which: head -c 120 tokenizer.model. It begins with 'version https://git-lfs': a pointer. Each line is letters "
            "and a number: Llama 3.",
            "Llama 3: use the folder in Hugging Face's format, whose tokenizer.json current versions of transformers read; "
            "old programs for Llama 2 cannot.",
            "A pointer: git lfs install && git lfs pull. Otherwise fetch the file again.",
            instead=OWN,
        ),
        ("+sentencepiece|modelproto|tokenizer.model", "+parse|modelproto", "tokenizer|llama|load|error"),
        concept="tokenizer",
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
            "Tokenise templated text without special tokens: tokenizer(text, add_special_tokens=False)",
            "In vLLM give token ids, or the messages to its chat method; in llama-cpp-python omit the BOS from your own prompt.",
            instead=("puna adds only one BOS; puna inspect MODEL says if a model's template and settings would make two."),
        ),
        ("+bos", "+two|double|2|twice|duplicate|again", "token|prompt|template"),
        role="symptom",
        concept="tokenizer",
    ),
    Cause(
        "template-system-role",
        "tokenizer",
        (
            "system role not supported",
            "system role is not supported",
            "system message must be at the beginning",
            "system message should be the first one",
            "system messages should be at the beginning",
            "system message is only allowed at the beginning",
            "system messages are only allowed at the beginning",
        ),
        says(
            "This model's chat template accepts no system message, or only one at the beginning.",
            "Put the system message's text at the beginning of the first user message, or send it once, first.",
            SENDER,
            OTHER_TEMPLATE,
            instead=TEMPLATES,
        ),
        ("+system role|system message|system prompt", "+not supported|beginning|refus", "template|model|gemma|chat"),
    ),
    Cause(
        "template-no-user-message",
        "tokenizer",
        ("no user query found in messages", "no user query found", "no user message found"),
        says(
            "The chat template needs a user message, but there is none: only system, assistant or tool messages were sent.",
            "Send at least one message with the role user and some text. A program that shortens a long history may have "
            "dropped it.",
            SENDER,
            OTHER_TEMPLATE,
            instead=TEMPLATES,
        ),
        ("+user query|user message", "+not found|no user", "template|messages"),
    ),
    Cause(
        "template-last-message",
        "tokenizer",
        (
            "expected last role user or tool (or assistant with prefix true) for serving but got {role:name}",
            "expected last role",
            "cannot continue from a final assistant message",
            "continue_final_message is set but the final message does not appear in the chat after applying the chat template",
            "cannot set `add_generation_prompt` to true when the last message is from the assistant",
            "cannot have 2 or more assistant messages at the end of the list",
            "assistant response prefill is incompatible with enable_thinking",
            "continue_final_message is set but",
        ),
        says(
            (
                "The last message has the role {role}, from which the template cannot continue.",
                "The template cannot continue from the last message: its role is wrong, or it is an answer to continue "
                "where the template cannot do that.",
            ),
            "End the list with a user message or a tool's result. To continue an answer, use the program's own option "
            "(vLLM: continue_final_message with add_generation_prompt false).",
            SENDER,
            instead="puna continues a last assistant message where that is asked for, and says so where it cannot.",
        ),
        ("+last role|final message|prefill|continue_final_message", "+assistant|role|template"),
    ),
    Cause(
        "template-tool-calls",
        "tokenizer",
        (
            "this model only supports single tool-calls at once",
            "tool call ids should be alphanumeric strings with length 9",
            "not the same number of function calls and responses",
            "tool call id ... must be",
            "message has tool role, but there was no previous assistant message with a tool call",
        ),
        says(
            "The chat template needs tool calls and tool results in another form or order.",
            "Send one result for each call, directly after it and with the same id; Mistral's ids have 9 letters or digits.",
            SENDER,
            OTHER_TEMPLATE,
            instead=TEMPLATES,
        ),
        ("+tool call|tool-call|function call", "+template|number|id", "+refus|single|length|not the same"),
    ),
    Cause(
        "template-roles",
        "tokenizer",
        (
            "conversation roles must alternate {order:path}",
            "conversation roles must alternate",
            "roles must alternate",
            "only user, assistant and tool roles are supported",
            "only user and assistant roles are supported",
            "only user, system and assistant roles are supported",
            "unexpected message role",
            "unknown role: {role:word}",
            "unexpected role '{role:word}' after role '{before:word}'",
            "unexpected role",
        ),
        says(
            "The chat template needs alternating user and assistant, user first, and only the roles that it names. Two "
            "messages of one role in a row, an unknown role, or a system message where it takes none break that.",
            "Join consecutive messages of one role, and drop those before the first user message.",
            SENDER,
            OTHER_TEMPLATE,
            instead=TEMPLATES,
        ),
        ("+roles", "+alternate|unexpected|supported", "user|assistant|template"),
    ),
    Cause(
        "template-does-not-run",
        "tokenizer",
        (
            "jinja2.exceptions.undefinederror: {reason:word}",
            "jinja2.exceptions.templatesyntaxerror",
            "jinja2.exceptions.templateruntimeerror",
            "jinja2.exceptions.templateassertionerror",
            "jinja2.exceptions.undefinederror",
            "failed to parse chat template",
            "failed to apply chat template",
            "the chat template that comes with this model is not yet supported",
            "unable to generate parser for this template",
            "chat template parsing error",
            "unknown method: {method:word}",
            "apply_chat_template requires jinja2>={version:word} to be installed",
            "apply_chat_template requires jinja2",
            "custom template is not supported, try using --jinja",
            "tools param requires --jinja flag",
        ),
        says(
            "The model's chat template, a small Jinja program, did not run: the program's Jinja is older than the "
            "template or lacks part of it, the template has an error, or it was given no value that it needs.",
            "Update the program (llama.cpp, LM Studio, Ollama); Python: python -m pip install -U jinja2 transformers",
            "llama.cpp: give --jinja; or another template with it: --chat-template-file FILE, --chat-template chatml",
            "Many GGUF files were remade with a corrected template: fetch the model's newest file.",
            instead="puna runs templates in a sandbox and names the line that fails; another one: --template chatml",
        ),
        ("+chat template|jinja", "+error|fail|undefined|syntax|not supported"),
    ),
    Cause(
        "template-filter",
        "tokenizer",
        (
            "unknown (built-in) filter '{filter:word}' for type {type:name}",
            "unknown (built-in) filter '{filter:word}'",
            "can only get item pairs from a mapping",
        ),
        says(
            (
                "The chat template applies {filter} to a value of the kind {type}. Mostly it walks over a tool call's "
                "arguments, which came as JSON text (OpenAI's form) and not as an object, or over a tool's schema with a list "
                "of types.",
                "The chat template applies a filter to a value of another kind. Mostly it walks over a tool call's arguments, "
                "which came as JSON text (OpenAI's form) and not as an object, or over a tool's schema with a list of types.",
            ),
            "Update llama.cpp (LM Studio, Ollama): since spring 2026 it hands such arguments over as objects.",
            "Or give a corrected template: llama-server --jinja --chat-template-file FILE; the newest GGUF of the model has one.",
            "If the filter is upper or a type is an Array: give each parameter of the tool one type, such as string.",
            "In vLLM and transformers: send the arguments as an object, or update both.",
            instead="puna hands JSON text in a tool call's arguments to the template as an object.",
        ),
        ("+jinja|template|filter", "+unknown filter|built-in|items", "+tool|arguments|llama"),
    ),
    Cause(
        "template-refused",
        "tokenizer",
        (
            "error: jinja exception: {reason:word}",
            "jinja exception:",
            "jinja2.exceptions.templateerror",
            "raise_exception(",
            "while executing {what:name} at line {line:int}, column {column:int} in source",
            "error rendering prompt with jinja template",
            "failed to infer a tool call example",
        ),
        says(
            "The model's chat template refused the list of messages, or could not run on it; the text after this line says why.",
            SENDER,
            OTHER_TEMPLATE,
            "Many templates were corrected after release: fetch the model's newest file.",
            instead=TEMPLATES,
        ),
        ("+jinja|chat template", "+exception|error|refus", "message|role|model"),
        role="effect",
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
            "The model has no chat template: it is a base model, which continues texts, or its conversion omitted the template.",
            "For a conversation use the model whose name ends in -chat or -Instruct.",
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
            "A batch needs padding to one length, but LLaMA's tokenizer has no padding token.",
            "tokenizer.pad_token = tokenizer.eos_token; tokenizer.padding_side = 'left'",
            "Pass the attention mask too; without it padding changes the answers.",
            instead="puna never pads: rows of any lengths run together, and each answer is what it would be alone.",
        ),
        ("+pad_token|padding token|pad token", "+not set|no |does not have|missing|without"),
        concept="batching",
    ),
    Cause(
        "right-padding",
        "tokenizer",
        ("right-padding was detected", "a decoder-only architecture is being used, but right-padding was detected"),
        says(
            "The shorter texts of the batch were padded on the right: the model continues after the padding, and its answers "
            "are wrong.",
            "tokenizer.padding_side = 'left' before tokenising.",
            instead="puna never pads: each answer of a batch is what it would be alone.",
        ),
        ("+padding|padded", "+right", "+decoder|tokenizer|generat"),
        role="symptom",
        concept="batching",
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
            "(OpenLLaMA) the converted one splits words differently.",
            "Save the converted tokenizer once, which writes tokenizer.json: tokenizer.save_pretrained(FOLDER)",
            "For OpenLLaMA stay with the slow one: use_fast=False",
            instead=OWN,
        ),
        ("+slow tokenizer|fast tokenizer|use_fast", "+slow|wrong|minutes|seconds|incorrect|convert"),
        role="symptom",
        concept="tokenizer",
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
            "input length of input_ids is {tokens:int}, but `max_length` is set to {limit:int}",
            "input length of input_ids is",
            "has exceeded the model's predefined maximum length ({limit:int})",
        ),
        says(
            (
                "The text has {tokens} tokens; the model supports {limit}.",
                "The text has more tokens than the model supports ({limit}).",
                "The text has more tokens than the model supports.",
            ),
            "Shorten it, or use a model with a longer context; beyond its limit a model writes nonsense.",
            instead="puna counts first and prints both numbers: puna tokenize MODEL - < FILE",
        ),
        ("+token", "+longer than|too long|maximum context|exceed", "+context|sequence length|max length", "model|prompt|limit"),
        concept="rope",
    ),
)
