#!/usr/bin/env python3
"""Loads what `qalof export` writes in the programs it is for, and compares losses.

For a random tiny model of each family (or --model DIR): the GGUF file of every type in llama.cpp,
the merged Hugging Face directory in transformers, and the adapter as llama.cpp's LoRA file on the
GGUF base. The reference is transformers with peft in f32. A quantized file is compared with the
weights that it holds: `qalof import` reads it back, and transformers runs them; its matrices have
the bits that gguf-py gives. Losses are means over the tokens of one text and must agree to
--tolerance; those of files for which llama.cpp rounds activations (to 8 bits, or to bfloat16), to
--rounded_tolerance. With --tokenizers, only ids are compared, for the tokenizer.json files given,
with Hugging Face tokenizers. Exit status 1 otherwise. Needs torch, transformers, peft, gguf and
llama_cpp.

  tools/interop/check_gguf_export.py --qalof build/release/qalof [--families llama qwen3]
  tools/interop/check_gguf_export.py --qalof build/release/qalof --model smollm2 --types f16 q8_0
"""

import argparse
import ctypes
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

import gguf
import llama_cpp
import numpy as np
import peft
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
VOCAB = 1024  # of the nano tokenizer
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": VOCAB - 1,
    "eos_token_id": VOCAB - 1,
    "pad_token_id": VOCAB - 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 300.0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "rope_theta": 500.0,
}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 512,
    "rope_theta": 500.0,
}
# Name: config class, and what differs from SIZES.
FAMILIES = {
    "gpt2": (
        "GPT2Config",
        {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512, "n_ctx": 512},
    ),
    "llama": ("LlamaConfig", {"rope_parameters": LLAMA3, "tie_word_embeddings": False}),
    "llama_bias": (
        "LlamaConfig",
        {"attention_bias": True, "mlp_bias": True, "head_dim": 32, "tie_word_embeddings": True},
    ),
    "mistral": ("MistralConfig", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2_yarn": ("Qwen2Config", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2Config", {"head_dim": 32, "sliding_window": 32}),
    "gemma2_scalar": ("Gemma2Config", {"head_dim": 32, "query_pre_attn_scalar": 32}),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 32, "sliding_window": 32, "query_pre_attn_scalar": 20},
    ),
    "gemma3_scaled": (
        "Gemma3TextConfig",
        {
            "head_dim": 32,
            "sliding_window": 32,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "phi3": ("Phi3Config", {"num_key_value_heads": 2}),
    "phi3_long": (
        "Phi3Config",
        {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 512,
            "max_position_embeddings": 4096,
        },
    ),
    "smollm3": ("SmolLM3Config", {"use_sliding_window": False}),
}
TEXT_TOKENS = 200
TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1"}


def run(*command) -> dict:
    done = subprocess.run(list(map(str, command)) + ["--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def make_model(name: str, directory: pathlib.Path) -> None:
    config_class, values = FAMILIES[name]
    torch.manual_seed(len(name))
    known = dict(SIZES)
    if name == "gpt2":
        known = {key: value for key, value in SIZES.items() if key.endswith(("_size", "_id"))}
        known.pop("hidden_size")
        known.pop("intermediate_size")
    config = getattr(transformers, config_class)(**{**known, **values})
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    shutil.copy(ROOT / "assets/nano/model/tokenizer.json", directory)


def make_adapter(model_directory: pathlib.Path, directory: pathlib.Path) -> None:
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32)
    config = peft.LoraConfig(r=8, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(directory)


def token_ids(model: pathlib.Path) -> list[int]:
    vocab = json.loads((model / "config.json").read_text())["vocab_size"]
    if vocab == VOCAB:
        return np.random.default_rng(3).integers(0, VOCAB, TEXT_TOKENS).tolist()
    text = (ROOT / "assets/nano/data/text.txt").read_text()[:4000]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))
    return tokenizer.encode(text, add_special_tokens=False)[:TEXT_TOKENS]


def reference_loss(directory: pathlib.Path, ids: list[int], adapter=None) -> float:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item()


def llama_loss(path: pathlib.Path, ids: list[int], lora=None) -> float:
    llama = llama_cpp.Llama(
        str(path),
        n_ctx=512,
        logits_all=True,
        verbose=False,
        lora_path=str(lora) if lora else None,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
    )
    llama.eval(ids)
    logits = torch.from_numpy(np.array(llama.scores[: len(ids) - 1])).double()
    llama.close()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item()


def check_tokenizer(path: pathlib.Path, model: pathlib.Path) -> None:
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))
    texts = (ROOT / "assets/nano/data/text.txt").read_text()[:20000].split("\n")
    texts += ["  two  spaces", "tabs\tand\n\nlines ", "naïve ½ 二 🙂", "it's 12345 IT'S", ""]
    for text in texts:
        found = llama.tokenize(text.encode(), add_bos=True, special=False)
        assert found == tokenizer.encode(text), (text, found, tokenizer.encode(text))
    llama.close()


def check_bits(path: pathlib.Path, kind: str, model: pathlib.Path) -> int:
    """Matrices of a quantized file against gguf-py on what a file of floats holds."""
    floats = {t.name: t for t in gguf.GGUFReader(model).tensors}
    checked = 0
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.tensor_type.name == "F32":
            continue
        source = floats[tensor.name]
        values = np.array(source.data).reshape(tuple(reversed(source.shape.tolist())))
        expected = gguf.quants.quantize(values, tensor.tensor_type)
        assert np.array_equal(
            np.ascontiguousarray(tensor.data).view(np.uint8).ravel(),
            np.ascontiguousarray(expected).view(np.uint8).ravel(),
        ), (kind, tensor.name)
        checked += 1
    return checked


def model_with_tokenizer(tokenizer: pathlib.Path, directory: pathlib.Path) -> None:
    """A tiny Llama with a row of the embedding for each token."""
    loaded = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
    sizes = {**SIZES, "vocab_size": max(loaded.get_vocab().values()) + 1, "hidden_size": 32}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = transformers.LlamaConfig(**{**sizes, **ends, "tie_word_embeddings": True})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    shutil.copy(tokenizer, directory / "tokenizer.json")


class Check:
    def __init__(self, args: argparse.Namespace):
        self.qalof, self.failed = args.qalof.resolve(), 0
        self.tolerance, self.rounded = args.tolerance, args.rounded_tolerance

    def compare(self, what: str, found: float, expected: float) -> None:
        is_rounded = what.split()[-1] in ("bf16", "q8_0", "q4_0", "q4_1")
        bad = not abs(found - expected) <= (self.rounded if is_rounded else self.tolerance)
        self.failed += bad
        print(f"{what:40} {found:.5f} expected {expected:.5f}{'  FAILED' if bad else ''}")

    def export(self, model, kind, output, *more) -> None:
        run(
            *(self.qalof, "export", "--model_name_or_path", model, "--format", kind),
            *("--output", output, *more),
        )

    def model(self, name: str, model: pathlib.Path, work: pathlib.Path, types: list[str]) -> None:
        ids = token_ids(model)
        expected = reference_loss(model, ids)
        floats = work / "f32.gguf"
        self.export(model, "gguf", floats, "--type", "f32")
        self.compare(f"{name} f32", llama_loss(floats, ids), expected)
        check_tokenizer(floats, model)
        for kind in types:
            path = work / f"{kind}.gguf"
            self.export(model, "gguf", path, "--type", kind, "--overwrite")
            check_bits(path, kind, floats)
            back = work / f"back-{kind}"
            run(self.qalof, "import", path, "--output_dir", back)
            self.compare(f"{name} {kind}", llama_loss(path, ids), reference_loss(back, ids))
        adapter = work / "adapter"
        make_adapter(model, adapter)
        adapted = reference_loss(model, ids, adapter)
        lora, merged = work / "lora.gguf", work / "merged"
        self.export(model, "gguf-lora", lora, "--adapter", adapter)
        self.compare(f"{name} lora", llama_loss(floats, ids, lora), adapted)
        self.export(model, "gguf", work / "merged.gguf", "--adapter", adapter, "--type", "f32")
        self.compare(f"{name} merged gguf", llama_loss(work / "merged.gguf", ids), adapted)
        self.export(model, "hf", merged, "--adapter", adapter, "--type", "f32")
        self.compare(f"{name} merged hf", reference_loss(merged, ids), adapted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--qalof", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, help="instead of random models")
    parser.add_argument("--tokenizers", type=pathlib.Path, nargs="+", default=[])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--types", nargs="+", default=list(TYPES)[1:], choices=list(TYPES))
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--rounded_tolerance", type=float, default=5e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    check = Check(args)
    with tempfile.TemporaryDirectory() as directory:
        for tokenizer in args.tokenizers:
            work = pathlib.Path(directory, "tokenizer")
            model_with_tokenizer(tokenizer, work)
            check.export(work, "gguf", work / "m.gguf")
            check_tokenizer(work / "m.gguf", work)
            run(check.qalof, "import", work / "m.gguf", "--output_dir", work / "back")
            check_tokenizer(work / "m.gguf", work / "back")
            print(f"{tokenizer}: ids equal")
            shutil.rmtree(work)
        if args.tokenizers:
            return 0
        if args.model:
            check.model(args.model.name, args.model.resolve(), pathlib.Path(directory), args.types)
            return 1 if check.failed else 0
        for name in args.families:
            work = pathlib.Path(directory, name)
            work.mkdir()
            make_model(name, work / "model")
            try:
                check.model(name, work / "model", work, args.types)
            except (RuntimeError, AssertionError) as error:
                print(f"{name}: FAILED: {error}")
                check.failed += 1
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
