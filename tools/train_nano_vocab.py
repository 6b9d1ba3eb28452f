"""Trains the nano model's byte-level BPE and writes the start of its model directory: tokenizer files and config.json.

    python3 tools/train_nano_vocab.py --text lm.txt --vocab_size 768 --output_dir nano-start

Needs the `tokenizers` package. `qalof init --config_name nano-start --tokenizer_name nano-start` then makes the weights.
"""

import argparse
import json
import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--vocab_size", type=int, default=768)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    args = parser.parse_args()
    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train([str(args.text)], trainers.BpeTrainer(
        vocab_size=args.vocab_size, special_tokens=[end], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.output_dir / "tokenizer.json"))
    special = tokenizer.token_to_id(end)
    (args.output_dir / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "GPT2TokenizerFast", "bos_token": end, "eos_token": end, "unk_token": end, "model_max_length": args.positions}, indent=2) + "\n")
    (args.output_dir / "config.json").write_text(json.dumps({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": tokenizer.get_vocab_size(), "n_positions": args.positions,
        "n_ctx": args.positions, "n_embd": args.hidden, "n_layer": args.layers, "n_head": args.heads, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        "bos_token_id": special, "eos_token_id": special}, indent=2) + "\n")
    print(f"{tokenizer.get_vocab_size()} tokens in {args.output_dir}")


if __name__ == "__main__":
    main()
