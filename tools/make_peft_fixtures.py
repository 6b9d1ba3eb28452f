#!/usr/bin/env python3
"""Writes tests/runtime/data/peft: LoRA adapters by Python peft on tests/runtime/data/gpt2/f32, and their logits.

Needs torch, transformers and peft.

  tools/make_peft_fixtures.py [--output tests/runtime/data/peft]
"""
import argparse
import json
import pathlib
import shutil

import peft
import safetensors.torch
import torch
import transformers

ALL = ["c_attn", "c_proj", "c_fc"]
ADAPTERS = {
    "qa_all": dict(r=4, lora_alpha=8, target_modules=ALL, task_type="QUESTION_ANS"),
    "attention_only": dict(r=2, lora_alpha=5, target_modules=["c_attn"], task_type="QUESTION_ANS"),
    "rslora": dict(r=4, lora_alpha=3, target_modules=["attn.c_proj", "c_fc"], use_rslora=True, task_type="QUESTION_ANS"),
    "patterns": dict(r=4, lora_alpha=8, target_modules=ALL, rank_pattern={"mlp.c_proj": 2}, alpha_pattern={"c_attn": 12},
                     task_type="QUESTION_ANS"),
    # The first key that matches counts (peft sorts keys when it saves): c_attn of block 1 has alpha 3.
    "alpha_regex": dict(r=4, lora_alpha=8, target_modules=ALL, task_type="QUESTION_ANS",
                        alpha_pattern={r"z.*": 1, r".*\.1\.attn\..*": 3, "c_attn": 12, r"^transformer\.h\.0\.mlp\.c_fc": 5}),
    "rank_regex": dict(r=4, lora_alpha=6, target_modules=ALL, use_rslora=True, task_type="QUESTION_ANS",
                       rank_pattern={r".*\.\d+\.mlp\..*": 2, "c_proj": 3}),
    "excluded": dict(r=2, lora_alpha=4, target_modules=r".*\.h\.[01]\.(attn|mlp)\.c_(attn|proj|fc)",
                     exclude_modules=r".*\.0\.attn\.c_proj", task_type="QUESTION_ANS"),
    "one_layer": dict(r=2, lora_alpha=4, target_modules=ALL, layers_to_transform=[1], layers_pattern="h", exclude_modules=["c_fc"],
                      task_type="QUESTION_ANS"),
    "look_ahead": dict(r=2, lora_alpha=4, target_modules=r"^(?!.*\.0\.).*\.(c_attn|c_fc)$", task_type="QUESTION_ANS"),
    # Names as in a model's state, and modules without tensors.
    "state_names": dict(r=2, lora_alpha=4, target_modules=ALL, init_lora_weights="gaussian", task_type="QUESTION_ANS"),
}


def use_state_names(directory: pathlib.Path) -> None:
    path = directory / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    kept = {name.replace(".weight", ".default.weight") if "lora_" in name else name: tensor.clone()
            for name, tensor in tensors.items() if ".h.0.mlp." not in name}
    safetensors.torch.save_file(kept, path, metadata={"format": "pt"})


def main() -> None:
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=root / "tests/runtime/data/peft")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    shutil.rmtree(output, ignore_errors=True)
    expected = {}
    for seed, (name, settings) in enumerate(ADAPTERS.items()):
        base = transformers.GPT2ForQuestionAnswering.from_pretrained(root / "tests/runtime/data/gpt2/f32")
        model = peft.get_peft_model(base, peft.LoraConfig(fan_in_fan_out=True, **settings))
        generator = torch.Generator().manual_seed(seed)
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(output / name)
        (output / name / "README.md").unlink(missing_ok=True)
        # The path of this checkout is not part of a fixture.
        config_path = output / name / "adapter_config.json"
        config = json.loads(config_path.read_text())
        config["base_model_name_or_path"] = "gpt2"
        config_path.write_text(json.dumps(config, indent=2) + "\n")
        if name == "state_names":
            use_state_names(output / name)
        # What peft makes of the files, not what was saved.
        base = transformers.GPT2ForQuestionAnswering.from_pretrained(root / "tests/runtime/data/gpt2/f32")
        model = peft.PeftModel.from_pretrained(base, output / name).double().eval()
        expected[name] = []
        for length in (1, 9, 32):
            ids = torch.randint(0, base.config.vocab_size, (1, length), generator=generator)
            with torch.no_grad():
                result = model(input_ids=ids)
            logits = torch.stack([result.start_logits[0], result.end_logits[0]], dim=-1)
            expected[name].append({"ids": ids[0].tolist(), "span_logits": logits.tolist()})
    (output / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
