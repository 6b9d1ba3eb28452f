#!/usr/bin/env python3
"""Makes inputs of tests/cases from tests/cases/llama-base, with expected losses from transformers.

Each folder is made anew: the model or adapter of a public report, and case.json with what is right.
Needs torch, transformers, safetensors. Usage: tools/make_public_cases.py [NAME...]
"""

import copy
import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

CASES = pathlib.Path(__file__).resolve().parent.parent / "tests" / "cases"
BASE = CASES / "llama-base"
TEXT = CASES / "text.txt"


def read_json(path):
    return json.loads(path.read_text())


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def fresh_folder(name):
    folder = CASES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def copy_base(name, weights=True):
    """A fresh folder NAME/model with the files of llama-base."""
    folder = fresh_folder(name)
    shutil.copytree(BASE, folder / "model")
    if not weights:
        (folder / "model" / "model.safetensors").unlink()
    return folder


def edit_config(folder, **changes):
    path = folder / "model" / "config.json"
    config = read_json(path)
    for key, value in changes.items():
        config.pop(key, None) if value is None else config.update({key: value})
    write_json(path, config)


def window_loss(model_dir, begin=0, end=None, first=1):
    """Sum and count of negative log-likelihoods of tokens first.. of text.txt[begin:end]."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(BASE)(TEXT.read_text(), add_special_tokens=False)["input_ids"]
    ids = torch.tensor(ids[begin:end])
    with torch.no_grad():
        logits = model(ids[None]).logits[0].double()
    scores = torch.log_softmax(logits[:-1], -1).gather(1, ids[1:, None])[:, 0]
    return -scores[first - 1 :].sum().item(), len(ids) - first


def lm_loss(model_dir):
    total, count = window_loss(model_dir)
    return total / count


def lm_step(model, *extra, **checks):
    flags = ["--model_name_or_path", model, "--validation_file", "text.txt", "--precision", "32"]
    return {"run": ["eval", "--task", "lm", *flags, *extra], **checks}


def write_case(folder, kind, source, right, steps):
    write_json(
        folder / "case.json", {"kind": kind, "source": source, "right": right, "steps": steps}
    )


def git_lfs_pointer():
    folder = copy_base("git-lfs-pointer", weights=False)
    (folder / "model" / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
        "size 44376\n"
    )
    write_case(
        folder,
        "incomplete download",
        "transformers#27923 and many more: a clone without Git LFS holds pointers, and the reader "
        'says "HeaderTooLarge"',
        "refused; the message says that the file is a Git LFS pointer and what fetches the weights",
        [lm_step("{case}/model", code=3, says=["Git LFS", "git lfs pull"])],
    )


def only_pickled_weights():
    folder = copy_base("only-pickled-weights", weights=False)
    (folder / "model" / "pytorch_model.bin").write_bytes(b"PK\x03\x04 not read")
    write_case(
        folder,
        "incomplete download",
        "cascadia#59: a model that is published as .bin alone gave no tensors, then a KeyError",
        "refused; the message names pytorch_model.bin and says how to make safetensors of it",
        [lm_step("{case}/model", code=3, says=["pytorch_model.bin", "safetensors"])],
    )


def shards(folder, assign, extra):
    """Splits the weights into two shards by assign(name); extra tensors go into the first."""
    tensors = load_file(BASE / "model.safetensors")
    files = {0: dict(extra), 1: {}}
    for name, tensor in tensors.items():
        files[assign(name)][name] = tensor.clone()
    names = {i: f"model-{i + 1:05}-of-00002.safetensors" for i in files}
    for i, content in files.items():
        save_file(content, folder / "model" / names[i], metadata={"format": "pt"})
    write_json(
        folder / "model" / "model.safetensors.index.json",
        {"metadata": {}, "weight_map": {name: names[assign(name)] for name in tensors}},
    )


def missing_shard():
    folder = copy_base("missing-shard", weights=False)
    shards(folder, lambda name: int("layers.1." in name), {})
    (folder / "model" / "model-00002-of-00002.safetensors").unlink()
    write_case(
        folder,
        "incomplete download",
        "CoSER#3, llama2-webui#7: the index names shards that are not there",
        "refused; the message names the shard that is missing",
        [lm_step("{case}/model", code=3, says=["model-00002-of-00002.safetensors"])],
    )


def index_assigns_tensors():
    folder = copy_base("index-assigns-tensors", weights=False)
    tensors = load_file(BASE / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    shards(folder, lambda key: int("layers.1." in key), {name: tensors[name] * 3 + 1})
    write_case(
        folder,
        "sharded files",
        "vllm#54230: a shard held old copies of tensors that the index assigns to another shard, "
        "and they overwrote the right ones",
        "refused; the message names the tensor and its file; never the loss of the old copy",
        [lm_step("{case}/model", code=3, says=[name, "model-00001-of-00002.safetensors"])],
    )


def rope_scaling_type():
    folder = copy_base("rope-scaling-type")
    edit_config(
        folder,
        rope_parameters=None,
        rope_theta=10000.0,
        rope_scaling={"type": "linear", "factor": 4.0},
    )
    write_case(
        folder,
        "old spellings",
        "transformers#32167, #32166: older models spell the key of rope_scaling \"type\"",
        "positions are scaled by 4; never the loss of the model without scaling",
        [lm_step("{case}/model", json={"eval_loss": lm_loss(folder / "model")})],
    )


def attention_bias():
    folder = copy_base("attention-bias")
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(5)
    for name in [n for n in tensors if n.endswith(("q_proj.weight", "k_proj.weight",
                                                   "v_proj.weight", "o_proj.weight"))]:
        rows = tensors[name].shape[0]
        bias = torch.randn(rows, generator=generator, dtype=torch.float32) * 0.3
        tensors[name.replace(".weight", ".bias")] = bias.to(tensors[name].dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    edit_config(folder, attention_bias=True)
    write_case(
        folder,
        "other architectures",
        "entrenar#258, ANEForge#253: biases of q, k and v were dropped without a word",
        "refused by name; never a loss without the biases",
        [lm_step("{case}/model", code=3, says=["attention_bias"])],
    )


def head_dim_of_its_own():
    folder = copy_base("head-dim-of-its-own")
    edit_config(folder, head_dim=16)
    write_case(
        folder,
        "other architectures",
        "candle#2358, entrenar#262: Mistral Nemo and Qwen3 have heads of another size than "
        "hidden / heads",
        "refused by name, or shapes that do not fit are named; never read as another shape",
        [lm_step("{case}/model", code=3, says=["head_dim"])],
    )


def token_without_embedding():
    folder = copy_base("token-without-embedding")
    path = folder / "model" / "tokenizer.json"
    tokenizer = read_json(path)
    added = copy.deepcopy(tokenizer["added_tokens"][-1])
    added.update(id=read_json(folder / "model" / "config.json")["vocab_size"], content="[PAD]",
                 special=True)
    tokenizer["added_tokens"].append(added)
    write_json(path, tokenizer)
    (folder / "padded.txt").write_text("The red boat [PAD] left.\n")
    write_case(
        folder,
        "tokenizer",
        'transformers#11102, #9542, shap#2930: a padding token was added and the embedding not '
        'resized: "index out of range in self"',
        "text without the token is scored as before; where the token is used, the message names it "
        "and the size of the embedding",
        [
            lm_step("{case}/model", json={"eval_loss": lm_loss(BASE)}),
            {
                "run": ["eval", "--task", "lm", "--model_name_or_path", "{case}/model",
                        "--validation_file", "{case}/padded.txt", "--precision", "32",
                        "--parse_special"],
                "code": 3,
                "says": ["320"],
            },
        ],
    )


def write_adapter(folder, tensors, **changes):
    config = read_json(CASES / "adapter-long-regex" / "adapter" / "adapter_config.json")
    config.update(changes)
    target = folder / "adapter"
    target.mkdir()
    write_json(target / "adapter_config.json", config)
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})


def adapter_resized_vocabulary():
    folder = fresh_folder("adapter-resized-vocabulary")
    adapter = load_file(CASES / "adapter-long-regex" / "adapter" / "adapter_model.safetensors")
    adapter["base_model.model.model.embed_tokens.weight"] = torch.zeros(321, 16)
    write_adapter(folder, adapter, modules_to_save=["embed_tokens"])
    write_case(
        folder,
        "adapter holds more than LoRA",
        "peft#1457, #2415, transformers#36550: tokens were added before training, and the adapter "
        "holds an embedding of another size",
        "refused; the message names embed_tokens",
        [lm_step("llama-base", "--adapter", "{case}/adapter", code=3, says=["embed_tokens"])],
    )


def adapter_other_prefix():
    folder = fresh_folder("adapter-other-prefix")
    adapter = load_file(CASES / "adapter-long-regex" / "adapter" / "adapter_model.safetensors")
    renamed = {
        name.replace("model.layers", "model.language_model.layers"): tensor.clone()
        for name, tensor in adapter.items()
    }
    write_adapter(folder, renamed, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
    write_case(
        folder,
        "adapter does nothing",
        "vllm#34186, #34591, exllamav2#169: names did not match, and the base answered",
        "refused; the message names a tensor that has no place",
        [lm_step("llama-base", "--adapter", "{case}/adapter", code=3, says=["language_model"])],
    )


def glue_test_labels():
    folder = fresh_folder("glue-test-labels")
    (folder / "test.tsv").write_text("sentence\tlabel\nthe red boat\t-1\na small pony\t-1\n")
    write_case(
        folder,
        "data as people have it",
        "datasets#183, #5624: labels of GLUE's test sets are -1, which means that they are hidden",
        "refused; the message says that -1 means no label",
        [
            {
                "run": ["eval", "--task", "classification", "--model_name_or_path",
                        "llama-classifier-untied/model", "--validation_file", "{case}/test.tsv",
                        "--precision", "32"],
                "code": 3,
                "says": ["-1", "without a label"],
            }
        ],
    )


def exponents_in_config():
    folder = fresh_folder("exponents-in-config")
    (folder / "run.toml").write_text("learning_rate = 1e-5\nmax_steps = 1\n")
    write_json(folder / "run.json", {"learning_rate": "1e-5", "max_steps": 1})
    train = ["train", "--task", "lm", "--method", "lora", "--model_name_or_path", "llama-base",
             "--train_file", "text.txt"]
    write_case(
        folder,
        "values of flags",
        "LlamaFactory#4014, allennlp#1429, casanovo#64: 1e-5 in a configuration file was read as "
        "text",
        "1e-5 is a number, from TOML, as text in JSON and on the command line alike",
        [
            {"run": [*train, "--config", "{case}/run.toml", "--output_dir", "{out}/a"],
             "needs_train": True},
            {"run": [*train, "--config", "{case}/run.json", "--output_dir", "{out}/b"],
             "needs_train": True},
            {"run": [*train, "--learning_rate", "1e-5", "--max_steps", "1", "--output_dir",
                     "{out}/c"],
             "needs_train": True},
            {"shell": "cmp {out}/a/w32/adapter_model.safetensors "
                      "{out}/b/w32/adapter_model.safetensors",
             "needs_train": True},
            {"shell": "cmp {out}/a/w32/adapter_model.safetensors "
                      "{out}/c/w32/adapter_model.safetensors",
             "needs_train": True},
        ],
    )


def closed_pipe():
    folder = fresh_folder("closed-pipe")
    write_case(
        folder,
        "output",
        "B2_Command_Line_Tool#1071, pip#11608, cpython#90650: head closes the pipe, and the program "
        "prints a traceback",
        "the first line, and nothing on standard error",
        [
            {
                # The reader is gone before the first byte is written.
                "shell": "{ sleep 0.3; \"$QALOF\" inspect llama-base; } | true; "
                         "\"$QALOF\" inspect llama-base | head -1",
                "never": ["qalof:", "Broken", "error"],
            }
        ],
    )


def perplexity_of_windows():
    folder = fresh_folder("perplexity-of-windows")
    length, stride = 48, 24
    count = window_loss(BASE)[1] + 1
    total, scored, begin, done = 0.0, 0, 0, 1
    while True:
        end = min(begin + length, count)
        part, tokens = window_loss(BASE, begin, end, done - begin)
        total, scored, done = total + part, scored + tokens, end
        if end == count:
            break
        begin += stride
    assert scored == count - 1
    write_case(
        folder,
        "evaluation",
        "transformers#34138, #30975, #18887: means of windows of different lengths were averaged, "
        "and tokens at the borders of windows were left out",
        "every token but the first is scored once, with its first window as context; the loss is "
        "the mean over tokens",
        [
            lm_step("llama-base", "--max_seq_length", str(length), "--stride", str(stride),
                    json={"eval_loss": total / scored, "tokens": scored}),
        ],
    )


MAKERS = [
    git_lfs_pointer, only_pickled_weights, missing_shard, index_assigns_tensors, rope_scaling_type,
    attention_bias, head_dim_of_its_own, token_without_embedding, adapter_resized_vocabulary,
    adapter_other_prefix, glue_test_labels, exponents_in_config, closed_pipe,
    perplexity_of_windows,
]


def main():
    wanted = set(sys.argv[1:])
    for make in MAKERS:
        name = make.__name__.replace("_", "-")
        if not wanted or name in wanted:
            make()
            print(name)


if __name__ == "__main__":
    main()
