#!/usr/bin/env python3
"""Compares a directory that `qalof import` made of a GGUF file with the programs that read the file
themselves.

Weights against gguf-py's dequantized tensors in transformers' layout (bit for bit), logits and a
greedy continuation of `qalof generate` against transformers, token ids against llama.cpp and
Hugging Face tokenizers. Needs torch, transformers, tokenizers, gguf and llama_cpp.

  tools/interop/check_gguf_import.py --qalof build/release/qalof --gguf model.gguf --directory
      imported
"""

import argparse
import json
import math
import pathlib
import subprocess

import gguf
import numpy as np
import safetensors.torch
import tokenizers
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]


def check_weights(reader: gguf.GGUFReader, directory: str) -> None:
    ours = safetensors.torch.load_file(directory + "/model.safetensors")
    config = json.loads(pathlib.Path(directory, "config.json").read_text())
    names = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    top = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(
            tuple(reversed(tensor.shape.tolist()))
        )
        part = tensor.name.split(".")
        name = top.get(tensor.name) or f"model.layers.{part[1]}.{names[part[2]]}.weight"
        if part[-2] in ("attn_q", "attn_k"):
            heads = config["num_attention_heads" if part[-2] == "attn_q" else "num_key_value_heads"]
            rows, cols = values.shape
            values = (
                values.reshape(heads, rows // heads // 2, 2, cols)
                .swapaxes(1, 2)
                .reshape(rows, cols)
            )
        assert np.array_equal(values, ours.pop(name).numpy()), name
    assert not ours, list(ours)
    print(f"weights: {len(reader.tensors)} tensors equal bit for bit")


def check_logits(qalof: str, directory: str, tokens: int) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=directory + "/tokenizer.json")
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    text = (ROOT / "assets/nano/data/text.txt").read_text()[:8000]
    path = pathlib.Path(directory, "check_text.txt")
    path.write_text(text)
    found = json.loads(
        subprocess.run(
            [
                qalof,
                "eval",
                "--task",
                "lm",
                "--model_name_or_path",
                directory,
                "--validation_file",
                path,
                "--json",
                "--quiet",
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    path.unlink()
    # One window holds the text.
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()
    print(
        f"loss over {found['tokens']} of {ids.shape[1] - 1} tokens: transformers {loss:.7f}, "
        f"qalof {found['eval_loss']:.7f}, "
        f"relative difference {abs(found['eval_loss'] / loss - 1):.2e}"
    )

    prompt = "Once upon a time in a small village"
    start = tokenizer(prompt, return_tensors="pt").input_ids
    out = subprocess.run(
        [
            qalof,
            "generate",
            "--model_name_or_path",
            directory,
            "--prompt",
            prompt,
            "--max_new_tokens",
            str(tokens),
            "--temperature",
            "0",
            "--json",
            "--quiet",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ours = json.loads(out)["text"]
    ids = start
    smallest = math.inf
    with torch.no_grad():
        for _ in range(tokens):
            logits = model(ids).logits[0, -1]
            best = torch.topk(logits, 2).values
            smallest = min(smallest, float(best[0] - best[1]))
            ids = torch.cat([ids, logits.argmax().view(1, 1)], dim=1)
            if ids[0, -1] == model.config.eos_token_id:
                break
    theirs = tokenizer.decode(ids[0, start.shape[1] :])
    print(
        f"greedy continuation of {ids.shape[1] - start.shape[1]} tokens:",
        "equal," if theirs == ours else f"{theirs!r}, qalof {ours!r},",
        f"smallest distance of the two best logits {smallest:.4f}",
    )


def check_tokens(qalof: str, gguf_path: str, directory: str) -> None:
    import llama_cpp

    lines = (ROOT / "tests/text/data/strings.jsonl").read_text().rstrip("\n").split("\n")
    strings = [json.loads(line) for line in lines]
    ours = (
        subprocess.run(
            [qalof, "tokenize", "--model_name_or_path", directory, "--jsonl"],
            check=True,
            text=True,
            input="\n".join(lines) + "\n",
            capture_output=True,
        )
        .stdout.rstrip("\n")
        .split("\n")
    )
    assert len(ours) == len(strings), (len(ours), len(strings))
    hugging = tokenizers.Tokenizer.from_file(directory + "/tokenizer.json")
    # tokenizers takes special tokens from text always; llama.cpp and we only where asked to.
    specials = [token.content for token in hugging.get_added_tokens_decoder().values()]
    llama = llama_cpp.Llama(gguf_path, vocab_only=True, verbose=False)
    wrong = {"tokenizers": [], "llama.cpp": []}
    for text, line in zip(strings, ours, strict=True):
        ids = json.loads(line)["ids"]
        if not any(special in text for special in specials) and hugging.encode(text).ids != ids:
            wrong["tokenizers"].append(text)
        if llama.tokenize(text.encode(), add_bos=False, special=False) != ids:
            wrong["llama.cpp"].append(text)
    for name, texts in wrong.items():
        print(f"tokens: {len(strings) - len(texts)} of {len(strings)} strings as {name}", texts[:5])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--qalof", default="build/release/qalof")
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    check_weights(gguf.GGUFReader(arguments.gguf), arguments.directory)
    check_tokens(arguments.qalof, arguments.gguf, arguments.directory)
    check_logits(arguments.qalof, arguments.directory, arguments.tokens)


if __name__ == "__main__":
    main()
