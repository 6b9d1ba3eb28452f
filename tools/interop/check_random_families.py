#!/usr/bin/env python3
"""Draws random configurations of every model family and compares what `qalof` computes with
transformers: shapes, positions, windows, biases and caps that no fixture has.

  tools/interop/check_random_families.py [--qalof build/release/qalof] [--each 6] [--seed 1]
      [--families llama ...]

Each model has random weights and the vocabulary of assets/nano, and is saved by save_pretrained.
The mean loss of a text must agree to 2e-6 relative with transformers in float64 (norms in f32, as
it has them), 32 greedily chosen tokens must be equal, which passes the KV cache, and a packed file
of 8 bits must give the loss of the directory at 8 bits, bit for bit. Exit status 1 where something
differs. Needs torch, transformers and tokenizers.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import warnings

import tokenizers
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
NANO = ROOT / "assets/nano"
PROMPT, NEW = 13, 32
# Where the best two logits are closer, f32 may choose the other.
LEAST_GAP = 1e-4


def rope(rng: random.Random, pairs: int, positions: int, kinds: list[str]) -> dict:
    kind = rng.choice(kinds)
    values = {"rope_type": kind, "rope_theta": rng.choice([50.0, 700.0, 10000.0, 1e6])}
    original = positions // rng.choice([2, 3, 4])
    if kind == "linear":
        values["factor"] = rng.choice([1.5, 2.0, 8.0])
    elif kind == "dynamic":
        values["factor"] = rng.choice([1.0, 2.0, 5.0])
    elif kind == "llama3":
        values.update(factor=rng.choice([2.0, 8.0, 32.0]), low_freq_factor=1.0)
        values.update(high_freq_factor=rng.choice([2.0, 4.0]))
        values.update(original_max_position_embeddings=original)
    elif kind == "yarn":
        values.update(factor=rng.choice([2.0, 3.5]), original_max_position_embeddings=original)
        if rng.random() < 0.5:
            values.update(beta_fast=rng.choice([8.0, 24.0]), beta_slow=rng.choice([1.0, 2.0]))
        if rng.random() < 0.3:
            values.update(mscale=0.9, mscale_all_dim=rng.choice([0.4, 0.9]))
        elif rng.random() < 0.3:
            values["attention_factor"] = rng.choice([0.8, 1.3])
        if rng.random() < 0.3:
            values["truncate"] = False
    elif kind == "longrope":
        values["short_factor"] = [round(rng.uniform(1, 2), 3) for _ in range(pairs)]
        values["long_factor"] = [round(rng.uniform(1, 9), 3) for _ in range(pairs)]
        values["original_max_position_embeddings"] = original
        if rng.random() < 0.4:
            values["factor"] = rng.choice([2.0, 4.0])
        if rng.random() < 0.3:
            values["attention_factor"] = rng.choice([1.1, 1.6])
    return values


ALL_ROPES = ["default", "default", "linear", "dynamic", "llama3", "yarn", "longrope"]


def layer_types(rng: random.Random, layers: int) -> list[str]:
    return [rng.choice(["sliding_attention", "full_attention"]) for _ in range(layers)]


def shape(rng: random.Random) -> dict:
    heads = rng.choice([1, 2, 3, 5, 6, 7, 8])
    kv_heads = rng.choice([n for n in range(1, heads + 1) if heads % n == 0])
    head_dim = rng.choice([4, 6, 8, 10, 12, 14, 18, 34])
    own = rng.random() < 0.5
    return {
        "vocab_size": 1024,
        "hidden_size": heads * (rng.choice([5, 9, 12, 16]) if own else head_dim),
        "intermediate_size": rng.choice([17, 24, 33, 64, 71]),
        "num_hidden_layers": rng.choice([1, 2, 3, 5, 7]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": rng.choice([48, 64, 100, 160]),
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-3]),
        "tie_word_embeddings": rng.random() < 0.5,
        "bos_token_id": 0,
        "eos_token_id": rng.choice([0, [0, 5]]),
        "pad_token_id": None,
    }


def with_rope(rng, values, kinds):
    values["rope_parameters"] = rope(
        rng, values["head_dim"] // 2, values["max_position_embeddings"], kinds
    )
    return values


def no_own_width(values):
    """Of classes that have no head_dim."""
    heads = values["num_attention_heads"]
    values["hidden_size"] = heads * values.pop("head_dim")
    return values


def llama(rng):
    values = with_rope(rng, shape(rng), ALL_ROPES)
    act = rng.choice(["silu", "silu", "gelu", "gelu_pytorch_tanh"])
    return {
        **values,
        "attention_bias": rng.random() < 0.5,
        "mlp_bias": rng.random() < 0.5,
        "hidden_act": act,
    }


def mistral(rng):
    values = with_rope(rng, shape(rng), ALL_ROPES)
    return {**values, "sliding_window": rng.choice([None, 1, 5, 16, 200])}


def qwen2(rng):
    values = no_own_width(with_rope(rng, shape(rng), ALL_ROPES))
    values.update(use_sliding_window=rng.random() < 0.6, sliding_window=rng.choice([3, 11, 40]))
    if values["use_sliding_window"] and rng.random() < 0.5:
        values["layer_types"] = layer_types(rng, values["num_hidden_layers"])
    else:
        values["max_window_layers"] = rng.choice([0, 1, 2, 99])
    return values


def qwen3(rng):
    values = with_rope(rng, shape(rng), ALL_ROPES)
    values.update(use_sliding_window=rng.random() < 0.5, sliding_window=rng.choice([3, 11, 40]))
    values.update(max_window_layers=rng.choice([0, 1, 2]), attention_bias=rng.random() < 0.5)
    return values


def gemma2(rng):
    values = with_rope(rng, shape(rng), ["default", "default", "linear", "yarn"])
    values.update(query_pre_attn_scalar=rng.choice([1, 7, 12, 50]))
    values.update(sliding_window=rng.choice([2, 9, 30]), attention_bias=rng.random() < 0.3)
    values.update(attn_logit_softcapping=rng.choice([None, 2.0, 30.0]))
    values.update(final_logit_softcapping=rng.choice([None, 3.0, 25.0]))
    values.update(layer_types=layer_types(rng, values["num_hidden_layers"]))
    values.update(hidden_activation=rng.choice(["gelu_pytorch_tanh", "gelu_pytorch_tanh", "gelu"]))
    return values


def gemma3_text(rng):
    values = gemma2(rng)
    values["attn_logit_softcapping"] = None
    pairs, positions = values["head_dim"] // 2, values["max_position_embeddings"]
    values["rope_parameters"] = {
        "full_attention": rope(rng, pairs, positions, ["default", "linear", "yarn"]),
        "sliding_attention": rope(rng, pairs, positions, ["default"]),
    }
    return values


def gemma3(rng):
    text = gemma3_text(rng)
    outer = {key: text.pop(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    outer["tie_word_embeddings"] = text["tie_word_embeddings"]
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision.update(num_attention_heads=2, image_size=14, patch_size=7)
    return {**outer, "text_config": text, "vision_config": vision, "mm_tokens_per_image": 4}


def phi3(rng):
    values = no_own_width(shape(rng))
    width = values["hidden_size"] // values["num_attention_heads"]
    part = rng.choice([1.0, 1.0, 0.5, 0.75])
    rotated = int(width * part)
    if rotated % 2:
        part, rotated = 1.0, width
    kind = rng.choice(["default", "longrope", "longrope"])
    values["rope_parameters"] = rope(rng, rotated // 2, values["max_position_embeddings"], [kind])
    values["rope_parameters"]["partial_rotary_factor"] = part
    if kind == "longrope":
        original = values["rope_parameters"]["original_max_position_embeddings"]
        values["original_max_position_embeddings"] = original
        values["rope_parameters"].pop("factor", None)
    values["sliding_window"] = rng.choice([None, 7, 200])
    return values


def smollm3(rng):
    values = no_own_width(with_rope(rng, shape(rng), ["default", "linear", "yarn"]))
    layers = values["num_hidden_layers"]
    if rng.random() < 0.5:
        values["no_rope_layers"] = [rng.randrange(2) for _ in range(layers)]
    else:
        values["no_rope_layer_interval"] = rng.choice([1, 2, 3, 4])
    values.update(use_sliding_window=rng.random() < 0.5, sliding_window=rng.choice([4, 20]))
    values.update(attention_bias=rng.random() < 0.5, mlp_bias=rng.random() < 0.5)
    return values


def gpt2(rng):
    heads = rng.choice([1, 3, 5, 6])
    return {
        "vocab_size": 1024,
        "n_embd": heads * rng.choice([5, 7, 8, 12]),
        "n_layer": rng.choice([1, 2, 5]),
        "n_head": heads,
        "n_positions": rng.choice([64, 100]),
        "n_inner": rng.choice([None, 37]),
        "activation_function": rng.choice(["gelu_new", "gelu", "gelu_pytorch_tanh"]),
        "scale_attn_weights": rng.random() < 0.7,
        "scale_attn_by_inverse_layer_idx": rng.random() < 0.5,
        "layer_norm_epsilon": rng.choice([1e-5, 1e-3]),
        "tie_word_embeddings": rng.random() < 0.7,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


FAMILIES = {
    "gpt2": gpt2,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3_text": gemma3_text,
    "gemma3": gemma3,
    "phi3": phi3,
    "smollm3": smollm3,
}


def save_model(model_type: str, values: dict, seed: int, path: pathlib.Path):
    config = transformers.AutoConfig.for_model(model_type, **values)
    kind = transformers.AutoModelForCausalLM
    if "text_config" in values:
        kind = transformers.AutoModelForImageTextToText
    model = kind.from_config(config, attn_implementation="eager")
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                offset = 1.0 if name.endswith("weight") and "gemma" not in model_type else 0.0
                parameter.copy_(offset + 0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(path)
    shutil.copy(NANO / "model/tokenizer.json", path)
    return model.double().eval()


def run(qalof: str, *arguments) -> dict:
    command = [qalof, *map(str, arguments), "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


class Check:
    def __init__(self, qalof: str):
        self.qalof = qalof
        self.tokenizer = tokenizers.Tokenizer.from_file(str(NANO / "model/tokenizer.json"))
        # Ids that the tokenizer lacks are never chosen.
        self.vocab = self.tokenizer.get_vocab_size()
        self.text = (NANO / "data/text.txt").read_text(encoding="utf-8")
        self.offsets = self.tokenizer.encode(self.text[:20000]).offsets

    def first_tokens(self, count: int) -> tuple[str, list[int]]:
        text = self.text[: self.offsets[count - 1][1]]
        return text, self.tokenizer.encode(text).ids

    def loss_of(self, model: pathlib.Path, text: pathlib.Path, count: int, bits: int) -> float:
        arguments = ("--model_name_or_path", model, "--precision", bits, "--task", "lm")
        more = ("--validation_file", text, "--max_seq_length", count + 1)
        return run(self.qalof, "eval", *arguments, *more)["eval_loss"]

    def greedy(self, model, text: str, ids: list[int], path: pathlib.Path) -> str:
        found = run(
            *(self.qalof, "generate", "--model_name_or_path", path, "--prompt", text),
            *("--precision", "32", "--max_new_tokens", NEW, "--ignore_eos"),
        )["ids"]
        for step, token in enumerate(found):
            with torch.no_grad():
                best = model(torch.tensor([ids])).logits[0, -1, : self.vocab].topk(2)
            if best.values[0] - best.values[1] < LEAST_GAP:
                break
            if token != best.indices[0].item():
                return f"token {step} is {token}, expected {best.indices[0].item()}"
            ids = [*ids, token]
        return ""

    def check(self, model_type: str, values: dict, seed: int, work: pathlib.Path) -> list[str]:
        path = work / "model"
        model = save_model(model_type, values, seed, path)
        text_values = values.get("text_config", values)
        positions = text_values.get("max_position_embeddings", text_values.get("n_positions"))
        problems = []
        for count in (PROMPT, positions - 1):
            text, ids = self.first_tokens(count)
            (work / "text.txt").write_text(text, encoding="utf-8")
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, :-1].double()
            expected = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item()
            found = self.loss_of(path, work / "text.txt", count, 32)
            if not abs(found - expected) <= 2e-6 * abs(expected):
                problems.append(f"loss of {count} tokens {found:.7f}, expected {expected:.7f}")
        text, ids = self.first_tokens(PROMPT)
        difference = self.greedy(model, text, ids, path)
        if difference:
            problems.append(difference)
        packed = work / "packed.qalof"
        quantize = ("--model_name_or_path", path, "--precision", "8", "--output", packed)
        run(self.qalof, "quantize", *quantize)
        losses = [self.loss_of(m, work / "text.txt", positions - 1, 8) for m in (path, packed)]
        if losses[0] != losses[1]:
            problems.append("the packed file gives another loss")
        return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--qalof", default=str(ROOT / "build/release/qalof"))
    parser.add_argument("--each", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    check = Check(arguments.qalof)
    failed = 0
    for family in arguments.families:
        agreed = 0
        for number in range(arguments.each):
            seed = arguments.seed * 1000 + number
            values = FAMILIES[family](random.Random(f"{family} {seed}"))
            with tempfile.TemporaryDirectory() as directory:
                try:
                    problems = check.check(family, values, seed, pathlib.Path(directory))
                except RuntimeError as error:
                    problems = [str(error)]
            if problems:
                print(f"{family} {seed}: {'; '.join(problems)}\n  {json.dumps(values)}", flush=True)
            failed += bool(problems)
            agreed += not problems
        print(f"{family}: {agreed} of {arguments.each} agree", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
