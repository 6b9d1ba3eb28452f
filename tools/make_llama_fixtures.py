#!/usr/bin/env python3
"""Writes tests/runtime/data/llama: tiny Llama models by transformers, and what they compute.

The directory `tied` holds a question-answering model with a tied embedding, `scaled` a language model with a head of its
own and the rotary scaling of Llama 3; expected.json holds token losses, span logits of the first, and the rotary
frequencies of both. Needs torch, transformers and safetensors.

  tools/make_llama_fixtures.py [--output tests/runtime/data/llama]
"""
import argparse
import json
import pathlib
import shutil

import torch
import transformers

SHAPE = dict(vocab_size=61, max_position_embeddings=48, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
             num_attention_heads=6, num_key_value_heads=2, bos_token_id=59, eos_token_id=60, rms_norm_eps=1e-5)
SCALED = dict(rope_type="llama3", rope_theta=700.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=24)


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Every parameter gets values that are neither zero nor one nor symmetric."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1.0 + 0.2 * noise if parameter.ndim == 1 else 0.3 * noise


def sequences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, SHAPE["vocab_size"], (n,), generator=generator).tolist() for n in (1, 2, 7, 31, 48)]


def evaluate(decoder: torch.nn.Module, head: torch.Tensor, span: torch.nn.Module | None) -> list[dict]:
    """Token losses under the LM head, and start and end logits, in float64."""
    results = []
    for ids in sequences():
        with torch.no_grad():
            hidden = decoder(torch.tensor([ids])).last_hidden_state[0]
            losses = torch.nn.functional.cross_entropy(hidden[:-1] @ head.T, torch.tensor(ids[1:], dtype=torch.long),
                                                       reduction="none")
            entry = {"ids": ids, "losses": losses.tolist()}
            if span is not None:
                entry["span_logits"] = span(hidden).tolist()
        results.append(entry)
    return results


def main() -> None:
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=root / "tests/runtime/data/llama")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    shutil.rmtree(output, ignore_errors=True)
    expected = {}

    config = transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_theta=500.0)
    qa = transformers.LlamaForQuestionAnswering(config)
    randomize(qa, seed=1)
    qa.save_pretrained(output / "tied")
    qa = qa.double().eval()
    decoder = qa.transformer
    expected["tied"] = {"frequencies": decoder.rotary_emb.inv_freq.tolist(),
                        "runs": evaluate(decoder, decoder.embed_tokens.weight, qa.qa_outputs)}

    config = transformers.LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_parameters=SCALED)
    lm = transformers.LlamaForCausalLM(config)
    randomize(lm, seed=2)
    lm.save_pretrained(output / "scaled")
    lm = lm.double().eval()
    expected["scaled"] = {"frequencies": lm.model.rotary_emb.inv_freq.tolist(),
                          "runs": evaluate(lm.model, lm.lm_head.weight, None)}
    (output / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
    for extra in output.glob("*/generation_config.json"):
        extra.unlink()


if __name__ == "__main__":
    main()
