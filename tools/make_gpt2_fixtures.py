#!/usr/bin/env python3
"""Writes tests/runtime/data/gpt2: a tiny GPT-2 by transformers, and what it computes.

The directories f32, f16, bf16 and sharded hold the same random model as transformers saves it; expected.json holds,
per stored form, token losses and span logits of a few id sequences. Needs torch, transformers and safetensors.

  tools/make_gpt2_fixtures.py [--output tests/runtime/data/gpt2]
"""
import argparse
import json
import pathlib
import shutil

import torch
import transformers

CONFIG = dict(vocab_size=61, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=60, eos_token_id=60,
              resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Every parameter gets values that are neither zero nor one nor symmetric."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_gain = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = 1.0 + 0.2 * noise if is_gain else (0.1 if parameter.ndim == 1 else 0.3) * noise


def sequences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, CONFIG["vocab_size"], (n,), generator=generator).tolist() for n in (1, 2, 7, 16, 31, 32)]


def evaluate(qa: transformers.GPT2ForQuestionAnswering) -> list[dict]:
    """Token losses under the tied head, and start and end logits, in float64."""
    qa = qa.double().eval()
    results = []
    for ids in sequences():
        with torch.no_grad():
            hidden = qa.transformer(torch.tensor([ids])).last_hidden_state[0]
            lm = hidden[:-1] @ qa.transformer.wte.weight.T
            losses = torch.nn.functional.cross_entropy(lm, torch.tensor(ids[1:], dtype=torch.long), reduction="none")
            span = qa.qa_outputs(hidden)
        results.append({"ids": ids, "losses": losses.tolist(), "span_logits": span.tolist()})
    return results


def main() -> None:
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=root / "tests/runtime/data/gpt2")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    shutil.rmtree(output, ignore_errors=True)
    config = transformers.GPT2Config(**CONFIG)
    qa = transformers.GPT2ForQuestionAnswering(config)
    randomize(qa, seed=1)
    expected = {}
    for name, dtype in {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}.items():
        qa = qa.to(dtype)
        qa.save_pretrained(output / name)
        expected[name] = evaluate(transformers.GPT2ForQuestionAnswering.from_pretrained(output / name))
        qa = transformers.GPT2ForQuestionAnswering.from_pretrained(output / "f32", dtype=torch.float32)
    qa.save_pretrained(output / "sharded", max_shard_size="16KB")
    # The LM class on the same weights must agree with the losses above.
    lm = transformers.GPT2LMHeadModel(config)
    lm.transformer.load_state_dict(qa.transformer.state_dict())
    lm.tie_weights()
    lm = lm.double().eval()
    for entry in expected["f32"][1:]:
        ids = torch.tensor([entry["ids"]])
        with torch.no_grad():
            loss = float(lm(ids, labels=ids).loss)
        assert abs(loss - sum(entry["losses"]) / len(entry["losses"])) < 1e-5, (loss, entry)
    # The keys that say something; the rest are defaults.
    (output / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
