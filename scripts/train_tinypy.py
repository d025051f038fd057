"""Train tinypy, the embedded language model, on the source code of Python's standard library.

    python scripts/train_tinypy.py [--tokens 12_000_000] [--out DIR]

A GPT-2 of 4 layers and width 192 with its own byte-level BPE of 4,096 tokens and a context of 128. The training stream
is every training document, each ended by the end-of-text token, cut into windows of 127 tokens behind a
beginning-of-text token. Held out are the files whose path's hash falls into the 5 % of
`sae_platform_transformers.stdlib.is_held_out`; the loss is the mean over every held-out token, each predicted once, in
windows of the same form.

Hidden matrices learn by Muon, everything else by AdamW, both with a linear warm-up and a linear decay to zero.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sae_platform_transformers.stdlib import is_held_out, stdlib_documents

CONTEXT, WIDTH, LAYERS, HEADS, VOCABULARY = 128, 192, 4, 6, 4096
END = "<|endoftext|>"
OUT = Path(__file__).parents[1] / "plugins" / "sae_platform_transformers" / "tinypy"


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """All documents as one run of tokens, each ended by the end-of-text token."""
    ids: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False):
        ids += [*encoding.ids, tokenizer.eos_token_id]
    return torch.tensor(ids)


def windows(tokens: torch.Tensor, starts: torch.Tensor, bos: int) -> torch.Tensor:
    """Windows of CONTEXT - 1 tokens behind a beginning-of-text token, [len(starts), CONTEXT]."""
    body = tokens[starts[:, None] + torch.arange(CONTEXT - 1)]
    return F.pad(body, (1, 0), value=bos)


def token_losses(model: GPT2LMHeadModel, batch: torch.Tensor) -> torch.Tensor:
    logits = model(batch).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, tokens: torch.Tensor, bos: int, limit: int | None = None) -> float:
    """Mean nats per token over all held-out tokens (the last incomplete window is dropped)."""
    model.eval()
    starts = torch.arange(0, len(tokens) - CONTEXT, CONTEXT - 1)[:limit]
    total = sum(token_losses(model, windows(tokens, part, bos)).double().sum().item() for part in starts.split(64))
    model.train()
    return total / (len(starts) * (CONTEXT - 1))


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) in float32; torch's own runs in bfloat16, which most CPUs do slowly."""

    def __init__(
        self, params: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalised(p.grad.lerp(momentum, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrix, by five quintic Newton-Schulz steps."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def optimizers(model: GPT2LMHeadModel, lr: float) -> list[torch.optim.Optimizer]:
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [Muon(hidden, lr), torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=12_000_000)
    parser.add_argument("--batch", type=int, default=32, help="windows per step")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    documents = list(stdlib_documents())
    training = [text for path, text in documents if not is_held_out(path)]
    held_out = [text for path, text in documents if is_held_out(path)]
    tokenizer = train_tokenizer(training)
    bos = tokenizer.bos_token_id
    tokenizer.save_pretrained(options.out)
    train_tokens, test_tokens = stream(tokenizer, training), stream(tokenizer, held_out)
    print(
        f"{len(documents)} files, {len(train_tokens):,} training and {len(test_tokens):,} held-out tokens", flush=True
    )

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, bos_token_id=bos,
        eos_token_id=bos, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        activation_function="gelu_pytorch_tanh",
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optims = optimizers(model, options.lr)
    steps = options.tokens // (options.batch * (CONTEXT - 1))
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.empty(0, dtype=torch.long)
    started = time.perf_counter()
    for step in range(steps):
        if len(order) < options.batch:  # a new epoch: windows at a new offset, in a new order
            offset = int(torch.randint(CONTEXT - 1, (), generator=generator))
            starts = torch.arange(offset, len(train_tokens) - CONTEXT, CONTEXT - 1)
            order = starts[torch.randperm(len(starts), generator=generator)]
        batch, order = windows(train_tokens, order[: options.batch], bos), order[options.batch :]
        scale = min((step + 1) / 100, (steps - step) / steps * 1.25, 1.0)
        for optimizer in optims:
            optimizer.param_groups[0]["lr"] = options.lr * scale
            optimizer.zero_grad()
        loss = token_losses(model, batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optims:
            optimizer.step()
        if step % 50 == 49:
            seconds = time.perf_counter() - started
            done = (step + 1) * options.batch * (CONTEXT - 1)
            extra = ""
            if step % 250 == 249:  # a training that is cut short leaves a usable model
                extra = f"  held out {held_out_loss(model, test_tokens, bos, 512):.3f}"
                copy.deepcopy(model).half().save_pretrained(options.out)
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}{extra}  {done / seconds:,.0f} tokens/s", flush=True)

    model.half()  # what is on disk is what is measured
    model.save_pretrained(options.out)
    reloaded = GPT2LMHeadModel.from_pretrained(options.out, dtype=torch.float32)
    result = {
        "held_out_loss": round(held_out_loss(reloaded, test_tokens, bos), 4),
        "held_out_tokens": len(test_tokens),
        "training_tokens_seen": steps * options.batch * (CONTEXT - 1),
        "training_tokens_distinct": len(train_tokens),
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    (options.out / "training.json").write_text(json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()
