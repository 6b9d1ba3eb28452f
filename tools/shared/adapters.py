"""PEFT directories with random pairs for a model, and a service to send them to.

Needs Python's standard library.
"""

import array
import contextlib
import json
import math
import pathlib
import random
import struct
import subprocess

# Linears that get a pair: the first list of which the model has any.
MODULES = (("q_proj", "v_proj"), ("c_attn",), ("query_key_value",), ("Wqkv",), ("qkv_proj",))


def tensor_shapes(model):
    """Shapes of a model directory's tensors by name."""
    shapes = {}
    for path in sorted(pathlib.Path(model).glob("*.safetensors")):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        shapes |= {name: entry["shape"] for name, entry in header.items()}
    return shapes


def write_adapter(model, directory, seed, rank=4):
    """A LoRA adapter of that rank with random A and B, large enough to change texts."""
    numbers = random.Random(seed)
    shapes = tensor_shapes(model)
    found = {}
    modules = ()
    for modules in MODULES:
        names = tuple(f".{module}.weight" for module in modules)
        found = {name: shape for name, shape in shapes.items() if name.endswith(names)}
        if found:
            break
    if not found:
        raise SystemExit(f"{model}: no linear that is named as one of {MODULES}")
    is_transposed = modules == ("c_attn",)  # GPT-2 keeps [in, out]
    header, data = {}, bytearray()
    for name, shape in sorted(found.items()):
        outputs, inputs = reversed(shape) if is_transposed else shape
        for part, rows, columns, size in (
            ("lora_A", rank, inputs, 1 / math.sqrt(inputs)),
            ("lora_B", outputs, rank, 0.05),
        ):
            values = array.array("f", (numbers.gauss(0, size) for _ in range(rows * columns)))
            key = f"base_model.model.{name.removesuffix('.weight')}.{part}.weight"
            header[key] = {
                "dtype": "F32",
                "shape": [rows, columns],
                "data_offsets": [len(data), len(data) + 4 * len(values)],
            }
            data += values.tobytes()
    text = json.dumps(header).encode()
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(modules),
        "fan_in_fan_out": is_transposed,
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


@contextlib.contextmanager
def service(qalof, model, *flags):
    """A running `qalof serve` on a free port: what its --json line says, and its process.

    It must end with 0 on SIGTERM.
    """
    command = [qalof, "serve", "--model_name_or_path", model, "--port", "0", "--json", "--quiet"]
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit("qalof serve did not start")
            yield json.loads(line), process
        finally:
            process.terminate()
            status = process.wait(30)
    if status != 0:
        raise SystemExit(f"qalof serve ended with {status} on SIGTERM")
