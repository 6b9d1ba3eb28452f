"""Gives a GPT-2 the outlier channels of larger pre-trained models without changing the function it computes.

    python3 tools/add_outlier_channels.py --model out/nano/lm --output_dir out/nano/model

Large language models carry a few channels whose activations are many times larger than the rest (Dettmers et al. 2022, LLM.int8(); Xiao et al. 2023,
SmoothQuant), and these make per-token quantization to few bits fail. A model of a million parameters grows none of its own. Here gain and shift of some
channels of every layer norm are multiplied by a power of two, and the matching input rows of the linear that follows are divided by it: exact in any
binary float format, so logits keep their values, while a token's scale is now set by the outliers. Needs `torch` and `safetensors`.
"""

import argparse
import json
import pathlib
import random
import shutil

import torch
from safetensors.torch import load_file, save_file

FOLLOWING = (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc"))


def scale_channels(tensors, prefix, layer, channels, factor, rng):
    for norm, linear in FOLLOWING:
        gain, shift = (tensors[f"{prefix}h.{layer}.{norm}.{part}"] for part in ("weight", "bias"))
        rows = tensors[f"{prefix}h.{layer}.{linear}.weight"]  # [in, out]
        for channel in rng.sample(range(gain.numel()), channels):
            before = gain[channel].float() * rows[channel].float()
            gain[channel] *= factor
            shift[channel] *= factor
            rows[channel] /= factor
            assert torch.equal(gain[channel].float() * rows[channel].float(), before), "an under- or overflow changed the function"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a GPT-2 directory")
    parser.add_argument("--channels", type=int, default=4, help="channels of each layer norm")
    parser.add_argument("--factor", type=int, default=8, help="a power of two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    args = parser.parse_args()
    if args.factor < 1 or args.factor & (args.factor - 1):
        parser.error(f"--factor {args.factor} is no power of two")
    tensors = load_file(args.model / "model.safetensors")
    prefix = "" if "h.0.ln_1.weight" in tensors else "transformer."
    rng = random.Random(args.seed)
    for layer in range(json.loads((args.model / "config.json").read_text())["n_layer"]):
        scale_channels(tensors, prefix, layer, args.channels, float(args.factor), rng)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(args.model / name, args.output_dir / name)
    save_file(tensors, args.output_dir / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
