#!/usr/bin/env python3
"""Runs qalof and what users would run instead in turn, and writes the inference tables of
docs/benchmarks.md.

  tools/bench/bench_inference.py --qalof build/release/qalof --peers DIR [--rounds 5] [--write
      docs/benchmarks.md]

DIR holds a GPT-2 124M (gpt2r, Hugging Face layout), its conversions
gpt2r-{f16,bf16,q8_0,q4_0}.gguf, ct2_f32 and ct2_int8, and a Python with llama_cpp and ctranslate2
(venv/bin/python). Without --peers and with --model, ours alone is measured. A round runs every row
once; a figure is the median over rounds, a ratio that of two medians. Only the standard library is
needed here.
"""

import argparse
import array
import itertools
import json
import pathlib
import random
import shlex
import statistics
import struct
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from shared.documents import call, conditions, without_paths, write_section  # noqa: E402

PROMPT, NEW, PREFILL = 128, 64, 512
BEGIN, END = (
    "<!-- inference: written by tools/bench/bench_inference.py -->",
    "<!-- inference: end -->",
)
GROUPS = (32, 64, 128)
LAYERS, HIDDEN, RANK = 12, 768, 8


def median_seconds(run, repeats=3):
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peer_llama(file, threads):
    """llama.cpp on a GGUF file. The K and V cache is its default, f16."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(file),
        n_threads=threads,
        n_threads_batch=threads,
        n_ctx=1024,
        n_batch=PREFILL,
        verbose=False,
    )
    ids = [i * 7919 % (model.n_vocab() - 1000) for i in range(PREFILL)]

    def prompt(count):
        model.reset()
        model.eval(ids[:count])

    prefill = PREFILL / median_seconds(lambda: prompt(PREFILL))
    seconds = []
    for _ in range(4):
        prompt(PROMPT)
        start = time.perf_counter()
        for i in range(NEW):
            model.eval([ids[i]])
        seconds.append(time.perf_counter() - start)
    return {"last": prefill, "decode": NEW / statistics.median(seconds[1:])}


def peer_ctranslate2(directory, kind, threads):
    import ctranslate2

    compute = {"int8": "int8", "f32": "float32"}[kind]
    model = ctranslate2.Generator(
        f"{directory}/ct2_{kind}", compute_type=compute, intra_threads=threads, inter_threads=1
    )
    words = ["hello", "Ġthe", "Ġof", "Ġand"] * (PREFILL // 4)

    def generate(count):
        model.generate_batch(
            [words[:PROMPT]],
            max_length=count,
            min_length=count,
            sampling_topk=1,
            end_token=[],
            include_prompt_in_result=False,
        )

    prefill = PREFILL / median_seconds(lambda: model.forward_batch([words]))
    first = median_seconds(lambda: generate(1))
    return {"all": prefill, "decode": NEW / (median_seconds(lambda: generate(NEW + 1)) - first)}


def peer(directory, name, threads):
    program, kind = name.split(" ")
    if program == "llama.cpp":
        return peer_llama(directory / f"gpt2r-{kind}.gguf", threads)
    return peer_ctranslate2(directory, kind, threads)


def write_random_adapter(directory):
    """A PEFT directory with r = 8 on all linears of GPT-2 124M."""
    source, header, data = random.Random(0), {}, []
    offset = 0
    linears = {
        "attn.c_attn": (HIDDEN, 3 * HIDDEN),
        "attn.c_proj": (HIDDEN, HIDDEN),
        "mlp.c_fc": (HIDDEN, 4 * HIDDEN),
        "mlp.c_proj": (4 * HIDDEN, HIDDEN),
    }
    for layer in range(LAYERS):
        for name, (inputs, outputs) in linears.items():
            for part, shape in (("A", [RANK, inputs]), ("B", [outputs, RANK])):
                values = array.array(
                    "f", (source.uniform(-0.02, 0.02) for _ in range(shape[0] * shape[1]))
                ).tobytes()
                header[f"base_model.model.transformer.h.{layer}.{name}.lora_{part}.weight"] = {
                    "dtype": "F32",
                    "shape": shape,
                    "data_offsets": [offset, offset + len(values)],
                }
                offset += len(values)
                data.append(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(directory / "adapter_model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data))
    (directory / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": RANK,
                "lora_alpha": 2 * RANK,
                "lora_dropout": 0.0,
                "bias": "none",
                "fan_in_fan_out": True,
                "target_modules": ["c_attn", "c_proj", "c_fc"],
                "base_model_name_or_path": "gpt2",
            }
        )
    )


class Ours:
    """Rows of qalof: name -> flags, and the measurements of one."""

    def __init__(self, arguments, work):
        self.qalof, self.prefix, self.threads = arguments.qalof, arguments.prefix, arguments.threads
        adapter = work / "adapter"
        adapter.mkdir()
        write_random_adapter(adapter)
        packed = work / "rows.qalof"
        self.quantize(arguments.model, packed, ["8", "4"])
        eight, four = (
            ["--precision", "w8a8kv8", "--lm_head_bits", "8"],
            ["--precision", "w4a8kv8", "--lm_head_bits", "8"],
        )
        lora = ["--adapter", str(adapter)]
        self.rows = {
            "qalof f32": (arguments.model, ["--precision", "32"]),
            "qalof bf16": (arguments.model, ["--precision", "16"]),
            "qalof W8": (packed, eight),
            "qalof W4 per row": (packed, four),
            "qalof W8 + LoRA": (packed, eight + lora),
            "qalof W4 per row + LoRA": (packed, four + lora),
        }
        for group in GROUPS:
            grouped = work / f"g{group}.qalof"
            self.quantize(arguments.model, grouped, ["4"], ["--scheme", f"g{group}"])
            self.rows[f"qalof W4 groups of {group}"] = (grouped, four + ["--scheme", f"g{group}"])

    def quantize(self, model, output, widths, extra=()):
        call(
            [
                self.qalof,
                "quantize",
                "--model_name_or_path",
                str(model),
                "--bit_widths",
                *widths,
                *extra,
                "--output",
                str(output),
                "--json",
            ]
        )

    def commands(self, name):
        model, flags = self.rows[name]
        flags = ["--model_name_or_path", str(model), "--threads", str(self.threads), *flags]
        prefill = ["bench", "prefill", "--prompt_tokens", str(PREFILL)]
        return {
            "last": [*prefill, *flags],
            "all": [*prefill, "--logits", "all", *flags],
            "decode": [
                "bench",
                "decode",
                "--prompt_tokens",
                str(PROMPT),
                "--new_tokens",
                str(NEW),
                *flags,
            ],
        }

    def run(self, name):
        return {
            what: call([*self.prefix, self.qalof, *command, "--json"])["tokens_per_second"]
            for what, command in self.commands(name).items()
        }


class Results:
    def __init__(self):
        self.samples = {}  # row -> what -> [tokens/s]

    def add(self, name, figures):
        for what, value in figures.items():
            self.samples.setdefault(name, {}).setdefault(what, []).append(value)

    def median(self, name, what):
        samples = self.samples.get(name, {}).get(what)
        return statistics.median(samples) if samples else None

    def best(self, names, what):
        return max(
            (name for name in names if self.median(name, what)),
            key=lambda name: self.median(name, what),
            default=None,
        )


def claims(results, peers):
    """(text, ours, what, other, wanted ratio)"""
    llama = results.best([name for name in peers if name.startswith("llama.cpp")], "last")
    main = (
        "qalof W4 groups of 64"
        if "qalof W4 groups of 64" in results.samples
        else "qalof W4 per row"
    )
    rows = []
    if peers:
        rows += [
            ("decode, W4 groups of 64", "qalof W4 groups of 64", "decode", "llama.cpp q4_0", 1.4),
            ("decode, W4 per row", "qalof W4 per row", "decode", "llama.cpp q4_0", None),
            ("decode, W8", "qalof W8", "decode", "llama.cpp q8_0", 1.4),
            ("prefill, last logits", "qalof W8", "last", llama, 3.0),
            ("prefill, all logits", "qalof W8", "all", "CTranslate2 int8", 1.8),
            ("prefill in f32, all logits", "qalof f32", "all", "CTranslate2 f32", 1.0),
        ]
    rows += [
        ("decode, bf16 over f32", "qalof bf16", "decode", "qalof f32", 1.0),
        ("decode, W8 over bf16", "qalof W8", "decode", "qalof bf16", 1.0),
        ("decode, W4 over W8", main, "decode", "qalof W8", 1.0),
        ("prefill, W8 over f32", "qalof W8", "last", "qalof f32", 2.5),
        (
            "decode, W4 with LoRA over without",
            "qalof W4 per row + LoRA",
            "decode",
            "qalof W4 per row",
            0.9,
        ),
        ("prefill, W8 with LoRA over without", "qalof W8 + LoRA", "last", "qalof W8", 0.9),
    ]
    return [row for row in rows if row[1] in results.samples and row[3] in results.samples]


def report(results, ours, peers, arguments):
    def number(value):
        return "" if value is None else f"{value:,.0f}"

    lines = [
        BEGIN,
        "",
        conditions(arguments.qalof, arguments.threads, arguments.rounds),
        "",
        "| tokens/s | prefill 512, last logits | prefill 512, all logits | decode at 128 |",
        "| --- | --- | --- | --- |",
    ]
    for name in results.samples:
        lines.append(
            f"| {name} | "
            + " | ".join(number(results.median(name, what)) for what in ("last", "all", "decode"))
            + " |"
        )
    lines += ["", "| ratio | against | wanted | found |", "| --- | --- | --- | --- |"]
    for text, mine, what, other, wanted in claims(results, peers):
        ratio = results.median(mine, what) / results.median(other, what)
        limit = "" if wanted is None else f"{wanted:.1f}"
        miss = " (missed)" if wanted is not None and ratio < wanted else ""
        lines.append(f"| {text} | {other} | {limit} | {ratio:.2f}{miss} |")
    lines += [
        "",
        "Commands of the rows of qalof (MODEL: the directory, or its packed file for W8 and W4):",
        "",
        "```",
    ]
    for name in ours.rows:
        for command in ours.commands(name).values():
            lines.append(
                "qalof "
                + " ".join(
                    without_paths(
                        command, {"--adapter": "ADAPTER", "--model_name_or_path": "MODEL"}
                    )
                )
            )
    return "\n".join(lines + ["```", "", END])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--peers", type=pathlib.Path)
    parser.add_argument(
        "--model", type=pathlib.Path, help="a GPT-2 124M directory; default: gpt2r of --peers"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--prefix",
        type=shlex.split,
        default=[],
        help="a command that runs each measurement, e.g. 'nice -n -5'",
    )
    parser.add_argument(
        "--write", type=pathlib.Path, help="a file whose marked section is replaced; default: print"
    )
    parser.add_argument("--peer", help=argparse.SUPPRESS)  # measures one peer in its own Python
    arguments = parser.parse_args()
    if arguments.peer:
        print(json.dumps(peer(arguments.peers, arguments.peer, arguments.threads)))
        return
    arguments.model = arguments.model or (arguments.peers / "gpt2r" if arguments.peers else None)
    if arguments.model is None:
        parser.error("--peers or --model is needed")
    peers = [f"llama.cpp {kind}" for kind in ("f16", "bf16", "q8_0", "q4_0")] + [
        "CTranslate2 f32",
        "CTranslate2 int8",
    ]
    peers = peers if arguments.peers else []
    results = Results()
    with tempfile.TemporaryDirectory() as work:
        ours = Ours(arguments, pathlib.Path(work))
        for index in range(arguments.rounds):
            # Ours and theirs alternate, so that what else the machine does meets both.
            pairs = itertools.zip_longest(ours.rows, peers)
            for name in filter(None, itertools.chain.from_iterable(pairs)):
                if name in peers:
                    python = str(arguments.peers / "venv/bin/python")
                    figures = call(
                        [
                            *arguments.prefix,
                            python,
                            __file__,
                            "--peers",
                            str(arguments.peers),
                            "--peer",
                            name,
                            "--threads",
                            str(arguments.threads),
                        ]
                    )
                else:
                    figures = ours.run(name)
                results.add(name, figures)
                print(
                    f"round {index + 1} {name}: "
                    + ", ".join(f"{what} {value:,.1f}" for what, value in figures.items()),
                    file=sys.stderr,
                    flush=True,
                )
        text = report(results, ours, peers, arguments)
    write_section(arguments.write, BEGIN, END, text)


if __name__ == "__main__":
    main()
