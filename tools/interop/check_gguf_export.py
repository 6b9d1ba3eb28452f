#!/usr/bin/env python3
"""Loads what `qalof export` writes in the programs it is for, and compares losses.

For a random tiny model of each family (or --model DIR): the GGUF file of every type in llama.cpp,
the merged Hugging Face directory in transformers, and the adapter as llama.cpp's LoRA file on the
GGUF base. Losses are means over about 2,500 tokens of a text, in windows, and must agree to
--tolerance. Ours is that of `qalof eval` in f32, which transformers with peft confirms.

A file of f16, bf16, q8_0, q4_0 or q4_1 is compared in three ways, because llama.cpp does not
multiply its values with floats: it rounds the inputs of a matrix to f16, to bf16 or to 8 bits in
blocks of 32.
  bits       its matrices have the bits that gguf-py gives
  values     what it holds (`qalof import`), written as f32: llama.cpp against `qalof eval`
  rounded    the file itself: llama.cpp against transformers with inputs rounded as llama.cpp does
  file       the file itself: llama.cpp against `qalof eval`
All must agree to --tolerance. The last two do not on every model (docs/file_formats.md): where two
programs add in another order, a few inputs are rounded to the other neighbour, which changes all
inputs of the next layers.

With --float_products, "rounded" is left out and "file" is compared where llama.cpp rounds nothing:
the environment's LLAMA_CPP_LIB_PATH (and LD_LIBRARY_PATH) name a library built with -DGGML_BLAS=ON,
which multiplies the values of a quantized matrix as floats for 32 tokens and more.

With --tokenizers, only ids are compared, for the tokenizer.json files given, with Hugging Face
tokenizers. Exit status 1 where something differs. Needs torch, transformers, peft, gguf and
llama_cpp.

  tools/interop/check_gguf_export.py --qalof build/release/qalof [--families llama qwen3]
  tools/interop/check_gguf_export.py --qalof build/release/qalof --model smollm2 --types f16 q8_0
"""

import argparse
import ctypes
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import unicodedata
import warnings

import check_tokenizers
import gguf
import llama_cpp
import numpy as np
import peft
import tokenizers
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
# Windows share one token, the last of one and the first of the next.
WINDOW, WINDOWS = 500, 5
TYPES = ("f16", "bf16", "q8_0", "q4_0", "q4_1")


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


def write_text(model: pathlib.Path, path: pathlib.Path) -> list[list[int]]:
    """A text of WINDOWS windows, and their ids."""
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    whole = (ROOT / "assets/nano/data/text.txt").read_text(encoding="utf-8")
    offsets = tokenizer.encode(whole).offsets
    text = whole[: offsets[WINDOWS * (WINDOW - 1)][1]]
    path.write_text(text, encoding="utf-8")
    ids = tokenizer.encode(text).ids
    starts = range(0, len(ids) - 1, WINDOW - 1)
    return [ids[start : start + WINDOW] for start in starts]


def mean_loss(windows: list[list[int]], logits_of) -> float:
    """Of all tokens that have a predecessor in their window."""
    losses = []
    for ids in windows:
        logits = logits_of(ids)[: len(ids) - 1].double()
        losses.append(
            torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        )
    return torch.cat(losses).mean().item()


def rounded_q8(x: torch.Tensor) -> torch.Tensor:
    """As llama.cpp rounds the inputs of a matrix of q8_0, q4_0 or q4_1."""
    blocks = x.reshape(-1, 32)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    codes = torch.round(blocks * torch.where(scale > 0, 1 / scale, scale))
    return (codes * scale.half().float()).reshape(x.shape)


ROUNDING = {
    "f16": lambda x: x.half().float(),
    "bf16": lambda x: x.bfloat16().float(),
    "q8_0": rounded_q8,
    "q4_0": rounded_q8,
    "q4_1": rounded_q8,
}


def reference_loss(directory: pathlib.Path, windows, adapter=None, rounding=None) -> float:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter)
    if rounding:
        matrices = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
        for module in model.modules():
            if isinstance(module, matrices):
                module.register_forward_pre_hook(lambda _, given: (rounding(given[0]),))
    with torch.no_grad():
        return mean_loss(windows, lambda ids: model.eval()(torch.tensor([ids])).logits[0])


def llama_loss(path: pathlib.Path, windows, lora=None) -> float:
    llama = llama_cpp.Llama(
        str(path),
        n_ctx=512,
        n_ubatch=512,
        logits_all=True,
        verbose=False,
        lora_path=str(lora) if lora else None,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
    )

    def logits_of(ids):
        llama.reset()
        llama.eval(ids)
        return torch.from_numpy(np.array(llama.scores[: len(ids)]))

    loss = mean_loss(windows, logits_of)
    llama.close()
    return loss


def without_rounding() -> None:
    """Has llama.cpp leave products to BLAS: it packs no weights anew for its own kernels."""
    defaults = llama_cpp.llama_model_default_params

    def plain_weights():
        params = defaults()
        params.use_extra_bufts = False
        return params

    llama_cpp.llama_cpp.llama_model_default_params = plain_weights
    llama_cpp.llama_model_default_params = plain_weights


def check_tokenizer(path: pathlib.Path, model: pathlib.Path) -> None:
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"))
    texts = (ROOT / "assets/nano/data/text.txt").read_text()[:20000].split("\n")
    texts += ["  two  spaces", "tabs\tand\n\nlines ", "naïve ½ 二 🙂", "it's 12345 IT'S", ""]
    for text in texts:
        found = llama.tokenize(text.encode(), add_bos=True, special=False)
        assert found == tokenizer.encode(text), (text, found, tokenizer.encode(text))
    llama.close()


def compare_strings(
    path: pathlib.Path, model: pathlib.Path, back: pathlib.Path
) -> tuple[int, list[str], list[str]]:
    """llama.cpp's ids of some thousand strings of every kind, and those of what `qalof import`
    makes of the file, as a template's first token has them: how many were compared, and the strings
    that differ in the one and in the other."""
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    imported = tokenizers.Tokenizer.from_file(str(back / "tokenizer.json"))
    tokenizer.encode_special_tokens = imported.encode_special_tokens = True
    real = [(ROOT / "assets/nano/data/text.txt").read_text(), (ROOT / "README.md").read_text()]
    strings = check_tokenizers.make_strings(
        random.Random(1), real, check_tokenizers.added_contents(model)
    )
    # llama.cpp normalizes nothing, and takes some tokens for control tokens by their names
    # (fill-in-the-middle), whatever a file says of them: it does not look for these in a text.
    vocab = llama_cpp.llama_model_get_vocab(llama.model)
    by_name = [
        token.content
        for id, token in tokenizer.get_added_tokens_decoder().items()
        if not token.special and llama_cpp.llama_vocab_is_control(vocab, id)
    ]
    strings = [
        text
        for text in strings
        if unicodedata.is_normalized("NFC", text) and not any(name in text for name in by_name)
    ]
    differ, differ_back = [], []
    for text in strings:
        ids = tokenizer.encode(text).ids
        if llama.tokenize(text.encode(), add_bos=True, special=False) != ids:
            differ.append(text)
        if imported.encode(text).ids != ids:
            differ_back.append(text)
    llama.close()
    return len(strings), differ, differ_back


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
        self.float_products = args.float_products
        self.tolerance = args.tolerance
        self.largest = {}

    def compare(self, what: str, found: float, expected: float) -> None:
        difference = abs(found - expected)
        bad = not difference <= self.tolerance
        self.failed += bad
        kind = " ".join(what.split()[1:])
        self.largest[kind] = max(self.largest.get(kind, 0.0), difference)
        print(
            f"{what:40} {found:.5f} expected {expected:.5f}, apart {difference:.1e}"
            f"{'  FAILED' if bad else ''}",
            flush=True,
        )

    def status(self) -> int:
        print("largest differences:")
        for kind, difference in self.largest.items():
            print(f"  {kind:20} {difference:.1e}")
        return 1 if self.failed else 0

    def export(self, model, kind, output, *more) -> None:
        run(
            *(self.qalof, "export", "--model_name_or_path", model, "--format", kind),
            *("--output", output, *more),
        )

    def our_loss(self, model: pathlib.Path, text: pathlib.Path, *more) -> float:
        result = run(
            *(self.qalof, "eval", "--task", "lm", "--model_name_or_path", model, "--quiet"),
            *("--validation_file", text, "--precision", "32", *more),
            *("--max_seq_length", WINDOW, "--stride", WINDOW - 1),
        )
        return result["eval_loss"]

    def model(self, name: str, model: pathlib.Path, work: pathlib.Path, types: list[str]) -> None:
        text = work / "text.txt"
        windows = write_text(model, text)
        expected = self.our_loss(model, text)
        self.compare(f"{name} transformers", reference_loss(model, windows), expected)
        floats = work / "f32.gguf"
        self.export(model, "gguf", floats, "--type", "f32")
        self.compare(f"{name} f32", llama_loss(floats, windows), expected)
        check_tokenizer(floats, model)
        for kind in types:
            self.quantized(f"{name} {kind}", model, work, kind, windows)
        adapter = work / "adapter"
        make_adapter(model, adapter)
        adapted = self.our_loss(model, text, "--adapter", adapter)
        self.compare(f"{name} peft", reference_loss(model, windows, adapter), adapted)
        lora, merged = work / "lora.gguf", work / "merged"
        self.export(model, "gguf-lora", lora, "--adapter", adapter)
        self.compare(f"{name} lora", llama_loss(floats, windows, lora), adapted)
        self.export(model, "gguf", work / "merged.gguf", "--adapter", adapter, "--type", "f32")
        self.compare(f"{name} merged gguf", llama_loss(work / "merged.gguf", windows), adapted)
        self.export(model, "hf", merged, "--adapter", adapter, "--type", "f32")
        self.compare(f"{name} merged hf", reference_loss(merged, windows), adapted)

    def quantized(self, name: str, model, work: pathlib.Path, kind: str, windows) -> None:
        path, back, values = work / f"{kind}.gguf", work / f"back-{kind}", work / "values.gguf"
        self.export(model, "gguf", path, "--type", kind, "--overwrite")
        check_bits(path, kind, work / "f32.gguf")
        run(self.qalof, "import", path, "--output_dir", back)
        ours = self.our_loss(back, work / "text.txt")
        self.export(back, "gguf", values, "--type", "f32", "--overwrite")
        self.compare(f"{name} values", llama_loss(values, windows), ours)
        theirs = llama_loss(path, windows)
        if not self.float_products:
            same_inputs = reference_loss(back, windows, rounding=ROUNDING[kind])
            self.compare(f"{name} rounded", theirs, same_inputs)
        self.compare(f"{name} file", theirs, ours)
        path.unlink()
        values.unlink()
        shutil.rmtree(back)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--qalof", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, help="instead of random models")
    parser.add_argument("--tokenizers", type=pathlib.Path, nargs="+", default=[])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--float_products", action="store_true", help="llama.cpp has BLAS")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    if args.float_products:
        without_rounding()
    check = Check(args)
    with tempfile.TemporaryDirectory() as directory:
        for tokenizer in args.tokenizers:
            work = pathlib.Path(directory, "tokenizer")
            model_with_tokenizer(tokenizer, work)
            check.export(work, "gguf", work / "m.gguf")
            run(check.qalof, "import", work / "m.gguf", "--output_dir", work / "back")
            compared, *differ = compare_strings(work / "m.gguf", work, work / "back")
            check_tokenizer(work / "m.gguf", work / "back")
            for program, texts in zip(("llama.cpp", "qalof import"), differ, strict=True):
                check.failed += bool(texts)
                print(f"{tokenizer}: {compared} strings, {len(texts)} differ in {program}")
                for text in texts[:8]:
                    print(f"  {json.dumps(text)}")
            shutil.rmtree(work)
        if args.tokenizers:
            return 1 if check.failed else 0
        if args.model:
            check.model(args.model.name, args.model.resolve(), pathlib.Path(directory), args.types)
            return check.status()
        for name in args.families:
            work = pathlib.Path(directory, name)
            work.mkdir()
            make_model(name, work / "model")
            try:
                check.model(name, work / "model", work, args.types)
            except (RuntimeError, AssertionError) as error:
                print(f"{name}: FAILED: {error}")
                check.failed += 1
    return check.status()


if __name__ == "__main__":
    sys.exit(main())
