"""A generation loop of the kind that the first LLaMA programs had, in words of our own: ragged prompts, padding, one shared loop.

The tests of `puna explain FILE` read this file as data, and run it with PyTorch, and compare the values.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


class Completer:
    """A model and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
    def generate(
        self,
        rows: list[list[int]],
        max_new: int,
        temperature: float = 0.6,
        top_p: float = 0.9,
        with_logprobs: bool = False,
        with_prompt: bool = False,
    ) -> tuple[list[list[int]], Any]:
        """Continue each row of token ids, all rows in one batch.

        Rows end before the first end-of-text id.
        """
        sizes = self.model.params
        num_rows = len(rows)
        assert num_rows <= sizes.max_batch_size, (num_rows, sizes.max_batch_size)

        shortest = min(len(row) for row in rows)
        longest = max(len(row) for row in rows)
        assert longest <= sizes.max_seq_len
        total = min(sizes.max_seq_len, max_new + longest)

        pad = self.tokenizer.pad_id
        board = torch.full((num_rows, total), pad, dtype=torch.long, device="cpu")
        for number, row in enumerate(rows):
            board[number, : len(row)] = torch.tensor(row, dtype=torch.long, device="cpu")
        if with_logprobs:
            scores = torch.zeros_like(board, dtype=torch.float)

        done_to = 0
        finished = torch.tensor([False] * num_rows, device="cpu")
        is_given = board != pad
        if shortest == total:
            logits = self.model.forward(board, done_to)
            scores = -F.cross_entropy(input=logits.transpose(1, 2), target=board, reduction="none", ignore_index=pad)

        for at in range(shortest, total):
            logits = self.model.forward(board[:, done_to:at], done_to)
            if temperature > 0:
                probs = torch.softmax(logits[:, -1] / temperature, dim=-1)
                chosen = nucleus_draw(probs, top_p)
            else:
                chosen = torch.argmax(logits[:, -1], dim=-1)

            chosen = chosen.reshape(-1)
            # A prompt's own token stays; only behind the prompt is a token replaced.
            chosen = torch.where(is_given[:, at], board[:, at], chosen)
            board[:, at] = chosen
            if with_logprobs:
                scores[:, done_to + 1 : at + 1] = -F.cross_entropy(
                    input=logits.transpose(1, 2),
                    target=board[:, done_to + 1 : at + 1],
                    reduction="none",
                    ignore_index=pad,
                )
            finished |= (~is_given[:, at]) & (chosen == self.tokenizer.eos_id)
            done_to = at
            if all(finished):
                break

        if with_logprobs:
            scores = scores.tolist()
        answers, answer_scores = [], []
        for number, ids in enumerate(board.tolist()):
            # Cut at the length that was asked for.
            start = 0 if with_prompt else len(rows[number])
            ids = ids[start : len(rows[number]) + max_new]
            kept: Any = None
            if with_logprobs:
                kept = scores[number][start : len(rows[number]) + max_new]
            # Cut before the end-of-text id.
            if self.tokenizer.eos_id in ids:
                end = ids.index(self.tokenizer.eos_id)
                ids = ids[:end]
                kept = kept[:end] if with_logprobs else None
            answers.append(ids)
            answer_scores.append(kept)
        return (answers, answer_scores if with_logprobs else None)


def nucleus_draw(probs: Any, top_p: float) -> Any:
    """Draw from the smallest set of tokens whose probabilities sum to more than top_p."""
    ranked, rank_ids = torch.sort(probs, dim=-1, descending=True)
    running = torch.cumsum(ranked, dim=-1)
    beyond = running - ranked > top_p
    ranked[beyond] = 0.0
    ranked.div_(ranked.sum(dim=-1, keepdim=True))
    drawn = torch.multinomial(ranked, num_samples=1)
    return torch.gather(rank_ids, -1, drawn)
