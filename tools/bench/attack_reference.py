#!/usr/bin/env python3
"""Gradient-based distributional attack (Guo et al. 2021, arXiv:2104.13733) in plain PyTorch: what
`qalof attack` is measured against.

Written from the formulas of docs/numerics.md, "Attack". Loads Hugging Face directories (GPT-2 or
Llama, `train --method full`) with transformers and attacks in full precision, one text at a time,
as the papers' programs do.

Usage: attack_reference.py --model DIR --reference DIR --data dev.tsv [--num_samples 20]
    [--iterations 100] [--queries 100]
Needs torch and transformers. Prints one JSON object.
"""

import argparse
import csv
import json
import time

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer


def read_examples(path, count):
    examples = []
    with open(path, newline="", encoding="utf-8") as file:
        if path.endswith(".csv"):
            for row in csv.reader(file):
                if row[0].isdigit():
                    examples.append((row[1] + " " + row[2], int(row[0]) - 1))
        else:
            for line in file:
                text, label = line.rstrip("\n").split("\t")
                if label.isdigit():
                    examples.append((text, int(label)))
    return examples[:count] if count else examples


class Attack:
    def __init__(self, options):
        self.options = options
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.model = AutoModelForSequenceClassification.from_pretrained(options.model).eval()
        self.reference = AutoModelForCausalLM.from_pretrained(options.reference).eval()
        for network in (self.model, self.reference):
            network.requires_grad_(False)
        self.table = self.model.get_input_embeddings().weight
        self.reference_table = self.reference.get_input_embeddings().weight
        self.backbone = self.model.base_model
        self.blocked = torch.tensor(
            sorted(self.tokenizer.get_added_vocab().values()), dtype=torch.long
        )

    def logits(self, embeddings):
        """Classes of the last position: texts are attacked one by one, so there is no padding."""
        return self.model.score(self.backbone(inputs_embeds=embeddings).last_hidden_state[:, -1])

    @torch.no_grad()
    def predict(self, text):
        ids = self.tokenizer.encode(text, add_special_tokens=False)[: self.options.max_length]
        if not ids:
            return None
        return self.logits(self.table[torch.tensor([ids])]).argmax(-1).item()

    def loss(self, theta, label, original):
        options = self.options
        samples = F.gumbel_softmax(
            theta.expand(options.gumbel_samples, -1, -1), tau=1.0, hard=False
        )
        logits = self.logits(samples @ self.table)
        other = logits.clone()
        other[:, label] = -float("inf")
        margin = (logits[:, label] - other.max(1).values + options.kappa).clamp_min(0).mean()
        output = self.reference(
            inputs_embeds=samples @ self.reference_table, output_hidden_states=True
        )
        log_p = F.log_softmax(output.logits[:, :-1], dim=-1)
        fluency = -(samples[:, 1:] * log_p).sum(-1).mean() if theta.shape[0] > 1 else 0.0
        states = F.normalize(output.hidden_states[-1], dim=-1)
        similarity = (states @ original.T).max(1).values.mean()
        return margin + options.lambda_fluency * fluency - options.lambda_similarity * similarity

    def attack(self, text, label):
        """(fooled, queries) of a text that is classified rightly."""
        options = self.options
        ids = torch.tensor(
            self.tokenizer.encode(text, add_special_tokens=False)[: options.max_length]
        )
        theta = torch.zeros(len(ids), self.table.shape[0])
        theta[torch.arange(len(ids)), ids] = options.initial
        theta[:, self.blocked] = -1e4
        theta.requires_grad_()
        with torch.no_grad():
            output = self.reference(input_ids=ids[None], output_hidden_states=True)
            original = F.normalize(output.hidden_states[-1][0], dim=-1)
        optimizer = torch.optim.Adam([theta], lr=options.learning_rate)
        for _ in range(options.iterations):
            optimizer.zero_grad()
            self.loss(theta, label, original).backward()
            optimizer.step()
        with torch.no_grad():
            for query in range(options.queries):
                hard = F.gumbel_softmax(theta, tau=1.0, hard=True).argmax(-1)
                answer = self.predict(
                    self.tokenizer.decode(hard, clean_up_tokenization_spaces=False)
                )
                if answer is not None and answer != label:
                    return True, query + 1
        return False, options.queries


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--num_samples", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--gumbel_samples", type=int, default=10)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--learning_rate", type=float, default=0.3)
    parser.add_argument("--initial", type=float, default=12)
    parser.add_argument("--kappa", type=float, default=5)
    parser.add_argument("--lambda_similarity", type=float, default=1)
    parser.add_argument("--lambda_fluency", type=float, default=1)
    parser.add_argument("--max_length", type=int, default=384)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    attack = Attack(options)
    examples = read_examples(options.data, options.num_samples)
    clean = adversarial = attacked = queries = 0
    start = time.perf_counter()
    for text, label in examples:
        if attack.predict(text) != label:
            continue
        clean += 1
        attacked += 1
        fooled, asked = attack.attack(text, label)
        queries += asked
        adversarial += not fooled
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "samples": len(examples),
                "clean_accuracy": 100 * clean / len(examples),
                "adversarial_accuracy": 100 * adversarial / len(examples),
                "attacked": attacked,
                "mean_queries": queries / max(attacked, 1),
                "seconds_per_sample": seconds / len(examples),
                "seconds_per_attacked": seconds / max(attacked, 1),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
