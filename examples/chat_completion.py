"""Answer a few dialogs. The command line is that of Meta's example_chat_completion.py:

    torchrun --nproc_per_node 1 examples/chat_completion.py --ckpt_dir llama-2-7b-chat/ --tokenizer_path tokenizer.model

It also runs with `python` instead of torchrun. A model that holds its own tokenizer (GGUF) needs no --tokenizer_path.
"""

from __future__ import annotations

from puna.compat import flags
from puna.compat.meta import Dialog, Llama

DIALOGS: list[Dialog] = [
    [{"role": "user", "content": "Which animals carry loads in the Andes?"}],
    [
        {"role": "user", "content": "I have one day in Cusco."},
        {"role": "assistant", "content": "Walk through San Blas in the morning, and see Sacsayhuaman in the afternoon."},
        {"role": "user", "content": "And for dinner?"},
    ],
    [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "Why is the air thin on high mountains?"},
    ],
    [
        {"role": "system", "content": "You are a patient teacher of mathematics."},
        {"role": "user", "content": "What is a prime number?"},
    ],
]


def main(
    ckpt_dir: str,
    tokenizer_path: str | None = None,
    temperature: float = 0.6,
    top_p: float = 0.9,
    max_seq_len: int = 512,
    max_batch_size: int = 8,
    max_gen_len: int | None = None,
) -> None:
    """Answer a few dialogs with the model in CKPT_DIR."""
    generator = Llama.build(ckpt_dir, tokenizer_path, max_seq_len=max_seq_len, max_batch_size=max_batch_size)
    results = generator.chat_completion(DIALOGS, max_gen_len=max_gen_len, temperature=temperature, top_p=top_p)
    for dialog, result in zip(DIALOGS, results, strict=True):
        for message in dialog:
            print(f"{message['role'].capitalize()}: {message['content']}\n")
        answer = result["generation"]
        print(f"> {answer['role'].capitalize()}: {answer['content']}")
        print("\n==================================\n")


if __name__ == "__main__":
    flags.run(main)
