#!/usr/bin/env python3
"""Writes tests/app/data/gguf: a tiny Llama as a GGUF file, and what it is worth elsewhere; and blocks of every stored type.

tiny.gguf is written by gguf-py with llama.cpp's order of the rows of q and k; expected.json holds the token losses that
transformers computes in float64 from its dequantized weights, the sum of each tensor, and ids that Hugging Face tokenizers
gives for its vocabulary. blocks.gguf has a tensor of random blocks of each type, NAME, and beside it the numbers that gguf-py
reads in them, NAME.f32. Needs torch, transformers, tokenizers and gguf; gguf alone with --blocks_only.

  tools/make_gguf_fixtures.py [--output tests/app/data/gguf] [--blocks_only]
"""
import argparse
import json
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "Ġ Ġ", "1 2", "Ġ 1", "t h", "th e", "Ġ the"]
SPECIAL = ["<|end|>"]
HIDDEN, INNER, HEADS, KV_HEADS, LAYERS, POSITIONS = 32, 64, 4, 2, 2, 40
# Every type in use; norms are F32 as everywhere.
TYPES = {"token_embd": T.Q8_0, "attn_q": T.Q4_1, "attn_k": T.F16, "attn_v": T.BF16, "attn_output": T.Q4_0,
         "ffn_gate": T.Q4_1, "ffn_up": T.F32, "ffn_down": T.Q8_0}
STRINGS = ["", "hello", "say hello the 1234 hellos", "a  b\n\n 12  12", "<|end|>", "it's 5'LL", "naïve ½ 二"]

# Where the f16 factors of a block stand, in bytes.
FACTORS = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2],
           T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0]}
BLOCK_ROWS, BLOCK_COLS = 2, 256


def write_blocks(path: pathlib.Path) -> None:
    random = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, "blocks")
    for kind, places in FACTORS.items():
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (BLOCK_ROWS * BLOCK_COLS // elements, size), dtype=np.uint8)
        for place in places:
            factors = random.normal(0.0, 0.1, len(blocks)).astype("<f2")
            factors[0] = 3e-6  # a subnormal
            blocks[:, place:place + 2] = factors.view(np.uint8).reshape(-1, 2)
        stored = blocks.reshape(BLOCK_ROWS, -1)
        writer.add_tensor(kind.name, stored, raw_dtype=kind)
        writer.add_tensor(kind.name + ".f32", gguf.quants.dequantize(stored, kind).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vocabulary() -> list[str]:
    import tokenizers
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return SPECIAL + alphabet + [merge.replace(" ", "") for merge in MERGES]


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as llama.cpp has them: the two halves of a head alternate."""
    rows, cols = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def main() -> None:
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=root / "tests/app/data/gguf")
    parser.add_argument("--blocks_only", action="store_true", help="write blocks.gguf alone")
    args = parser.parse_args()
    output = args.output
    output.mkdir(parents=True, exist_ok=True)
    write_blocks(output / "blocks.gguf")
    if not args.blocks_only:
        write_model(output)


def write_model(output: pathlib.Path) -> None:
    import tokenizers
    import torch
    import transformers

    torch.set_num_threads(1)
    tokens = vocabulary()
    config = transformers.LlamaConfig(vocab_size=len(tokens), hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS,
                                      num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=POSITIONS,
                                      rms_norm_eps=1e-5, rope_theta=400.0, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for layer in range(LAYERS):
        for ours, theirs in parts.items():
            names[f"model.layers.{layer}.{ours}"] = f"blk.{layer}.{theirs}"

    writer = gguf.GGUFWriter(output / "tiny.gguf", "llama")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(400.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)

    generator = torch.Generator().manual_seed(3)
    sums = {}
    state = dict(model.named_parameters())
    for name, parameter in state.items():
        noise = torch.randn(parameter.shape, generator=generator)
        values = (1.0 + 0.2 * noise if parameter.ndim == 1 else 0.3 * noise).numpy()
        stem = names[name.removesuffix(".weight")]
        part = stem.split(".")[-1]
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(part)
        kind = TYPES.get(part, T.F32)
        stored = gguf.quants.quantize(permuted(values, heads) if heads else values, kind)
        writer.add_tensor(stem + ".weight", stored, raw_dtype=kind)
        back = gguf.quants.dequantize(stored, kind).reshape(values.shape)
        if heads:
            back = back.reshape(heads, values.shape[0] // heads // 2, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        parameter.data = torch.from_numpy(np.ascontiguousarray(back, dtype=np.float32))
        sums[name] = [float(back.astype(np.float64).sum()), float(np.abs(back.astype(np.float64)).sum())]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    model = model.double().eval()
    ids = torch.randint(0, len(tokens), (30,), generator=generator).unsqueeze(0)
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens)},
                                                     [tuple(merge.split(" ")) for merge in MERGES]))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([tokenizers.pre_tokenizers.Digits(individual_digits=True),
                                                            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)])
    encodings = {text: bpe.encode(text).ids for text in STRINGS}
    expected = {"ids": ids[0].tolist(), "losses": losses, "sums": sums, "encodings": encodings}
    (output / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
