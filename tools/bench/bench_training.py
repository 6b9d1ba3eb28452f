#!/usr/bin/env python3
"""Runs qalof's training step and that of the original's method in PyTorch in turn, and writes the
table of docs/benchmarks.md.

  tools/bench/bench_training.py --qalof build/release/qalof --model GPT2_DIR --peer_python PYTHON
      [--train_file squad/train.json]
      [--rounds 5] [--write docs/benchmarks.md]

GPT2_DIR is a GPT-2 124M. PYTHON is a Python with torch and transformers. The original's method is a
LoRA step (r = 8 on all linears) on weights and activations that are quantized and dequantized in
floats, anew in every step, under bf16 autocast: on 16 windows of 256 tokens, and, as the original
ships it, on windows padded to 786 tokens, whose speed is then counted in the tokens that the
windows of --train_file really have. A round runs every row once; a figure is the median over
rounds, a ratio that of two medians.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from shared.documents import call, conditions, without_paths, write_section  # noqa: E402

BEGIN, END = "<!-- training: written by tools/bench/bench_training.py -->", "<!-- training: end -->"
PADDED = 786


def peer(threads, windows, tokens):
    """Seconds of a step of the original's method."""
    import torch
    from torch import nn
    from transformers import GPT2Config, GPT2Model

    torch.set_num_threads(threads)

    class Quantize(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, levels):
            ctx.save_for_backward(x)
            scale = levels / (x.abs().amax(dim=-1, keepdim=True) + 1e-6)
            return torch.round(x * scale).div(scale + 1e-6)

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient.masked_fill(x.abs() >= 2, 0), None

    class Linear(nn.Module):
        def __init__(self, conv):
            super().__init__()
            weight = conv.weight.data.t().contiguous()
            self.weight = nn.Parameter(weight, requires_grad=False)
            self.bias = nn.Parameter(conv.bias.data, requires_grad=False)
            self.a = nn.Parameter(torch.empty(8, weight.shape[1]))
            nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
            self.b = nn.Parameter(torch.zeros(weight.shape[0], 8))

        def forward(self, x):
            y = nn.functional.linear(
                Quantize.apply(x, 127), Quantize.apply(self.weight, 127), self.bias
            )
            return y + 2 * nn.functional.linear(nn.functional.linear(x, self.a), self.b)

    model = GPT2Model(
        GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa")
    )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for block in model.h:
        for owner, name in (
            (block.attn, "c_attn"),
            (block.attn, "c_proj"),
            (block.mlp, "c_fc"),
            (block.mlp, "c_proj"),
        ):
            setattr(owner, name, Linear(getattr(owner, name)))
    head = nn.Linear(768, 2)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad] + list(
        head.parameters()
    )
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    ids = torch.randint(0, 50257, (windows, tokens))
    start, end = torch.randint(0, tokens, (windows,)), torch.randint(0, tokens, (windows,))

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = head(model(ids).last_hidden_state)
        logits = logits.float()
        loss = (
            nn.functional.cross_entropy(logits[..., 0], start)
            + nn.functional.cross_entropy(logits[..., 1], end)
        ) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def ours(arguments, *flags):
    return [
        arguments.qalof,
        "bench",
        "train",
        "--model_name_or_path",
        str(arguments.model),
        "--threads",
        str(arguments.threads),
        "--repeats",
        str(arguments.steps),
        *flags,
        "--json",
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument(
        "--train_file", type=pathlib.Path, help="SQuAD JSON, for the rows on real windows"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, default=4, help="steps measured in each run of ours, after one warm-up"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--write", type=pathlib.Path, help="a file whose marked section is replaced; default: print"
    )
    parser.add_argument(
        "--peer", type=int, nargs=2, metavar=("WINDOWS", "TOKENS"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.peer:
        print(json.dumps({"seconds": peer(arguments.threads, *arguments.peer)}))
        return
    if arguments.model is None:
        parser.error("--model is needed")

    rows = {
        "W8A8, bf16 backward": ours(arguments, "--precision", "8"),
        "W4A4, bf16 backward": ours(arguments, "--precision", "4"),
        "W8A8, int8 backward": ours(arguments, "--precision", "8", "--gradient_bits", "8"),
    }
    peers = {"original's method, 16 x 256": (16, 256)}
    if arguments.train_file:
        real = ["--train_file", str(arguments.train_file), "--seq", "512"]
        rows["W8A8, bf16 backward, real windows"] = ours(arguments, "--precision", "8", *real)
        rows["W8A8, int8 backward, real windows"] = ours(
            arguments, "--precision", "8", "--gradient_bits", "8", *real
        )
        peers[f"original's method, padded to {PADDED}"] = (4, PADDED)
    speed, forward, windows = {}, {}, []
    for index in range(arguments.rounds):
        for name, command in rows.items():
            result = call(command)
            speed.setdefault(name, []).append(result["tokens_per_second"])
            forward.setdefault(name, []).append(
                statistics.median(step["forward"] for step in result["steps"])
            )
            if "real" in name:
                windows += [step["tokens"] / result["batch"] for step in result["steps"]]
            print(f"round {index + 1} {name}: {speed[name][-1]:,.0f}", file=sys.stderr, flush=True)
        for name, (count, tokens) in peers.items():
            seconds = call(
                [
                    arguments.peer_python,
                    __file__,
                    "--peer",
                    str(count),
                    str(tokens),
                    "--threads",
                    str(arguments.threads),
                ]
            )["seconds"]
            mean = statistics.mean(windows) if tokens == PADDED else tokens
            speed.setdefault(name, []).append(count * mean / seconds)
            print(f"round {index + 1} {name}: {speed[name][-1]:,.0f}", file=sys.stderr, flush=True)

    median = {name: statistics.median(values) for name, values in speed.items()}
    lines = [
        BEGIN,
        "",
        conditions(arguments.qalof, arguments.threads, arguments.rounds),
        "",
        "| training step | real tokens/s | against the original's method |",
        "| --- | --- | --- |",
    ]
    names = list(peers)
    for name, value in median.items():
        other = names[1] if "real" in name else names[0]
        ratio = "" if name in peers else f"{value / median[other]:.2f}x ({other.split(', ')[1]})"
        lines.append(f"| {name} | {value:,.0f} | {ratio} |")
    share = statistics.median(forward["W4A4, bf16 backward"]) / statistics.median(
        forward["W8A8, bf16 backward"]
    )
    lines += ["", f"The 4-bit forward pass takes {share:.2f} of the 8-bit one's time."]
    if windows:
        lines.append(f"A real window has {statistics.mean(windows):.0f} tokens.")
    lines += ["", "```"]
    for command in rows.values():
        words = without_paths(
            command, {"--model_name_or_path": "MODEL", "--train_file": "TRAIN_FILE"}
        )
        lines.append("qalof " + " ".join(words[1:]))
    text = "\n".join(lines + ["```", "", END])
    write_section(arguments.write, BEGIN, END, text)


if __name__ == "__main__":
    main()
