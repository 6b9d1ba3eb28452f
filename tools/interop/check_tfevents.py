#!/usr/bin/env python3
"""Reads an event file with TensorBoard's own reader and prints its scalars.

    check_tfevents.py DIR [--metrics metrics.jsonl]

With --metrics, every logged step's loss and learning rate must stand in the events (as f32).
Needs the package `tensorboard`.
"""

import argparse
import json
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def as_f32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory")
    parser.add_argument("--metrics")
    arguments = parser.parse_args()
    events = EventAccumulator(arguments.directory, size_guidance={"scalars": 0})
    events.Reload()
    scalars = {
        tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]
    }
    for tag, values in sorted(scalars.items()):
        print(f"{tag}: {len(values)} steps, {min(values)} to {max(values)}")
    if not arguments.metrics:
        return 0
    with open(arguments.metrics, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file][1:]
    expected = {"train/loss": "loss", "train/learning_rate": "learning_rate"}
    for tag, key in expected.items():
        wanted = {line["global_step"]: as_f32(line[key]) for line in lines if not line["skipped"]}
        if scalars.get(tag) != wanted:
            print(f"{tag}: differs from {arguments.metrics}", file=sys.stderr)
            return 1
    print(f"equal to the {len(lines)} steps of {arguments.metrics}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
