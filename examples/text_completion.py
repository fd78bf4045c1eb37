"""Continue a few texts. The command line is that of Meta's example_text_completion.py:

    torchrun --nproc_per_node 1 examples/text_completion.py --ckpt_dir llama-2-7b/ --tokenizer_path tokenizer.model

It also runs with `python` instead of torchrun. A model that holds its own tokenizer (GGUF) needs no --tokenizer_path.
"""

from __future__ import annotations

from puna.compat import flags
from puna.compat.meta import Llama

PROMPTS = [
    # The model continues where the text stops.
    "The high plain of the Andes is called puna, and the animals that live there",
    "To boil an egg, first",
    # A few examples show the model what to do.
    """Name the capital.

Peru: Lima
Bolivia: Sucre
Chile:""",
    """A short letter to a friend.

Dear Rosa,

Yesterday we walked up to the lake and""",
]


def main(
    ckpt_dir: str,
    tokenizer_path: str | None = None,
    temperature: float = 0.6,
    top_p: float = 0.9,
    max_seq_len: int = 128,
    max_gen_len: int = 64,
    max_batch_size: int = 4,
) -> None:
    """Continue a few texts with the model in CKPT_DIR."""
    generator = Llama.build(ckpt_dir, tokenizer_path, max_seq_len=max_seq_len, max_batch_size=max_batch_size)
    results = generator.text_completion(PROMPTS, max_gen_len=max_gen_len, temperature=temperature, top_p=top_p)
    for prompt, result in zip(PROMPTS, results, strict=True):
        print(prompt)
        print(f"> {result['generation']}")
        print("\n==================================\n")


if __name__ == "__main__":
    flags.run(main)
