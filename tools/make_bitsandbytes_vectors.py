"""Writes tests/kernels/data/bitsandbytes_vectors.txt: codes and scales of bitsandbytes on the CPU.

4-bit codebooks in blocks of 64 (quantize_4bit, dequantize_4bit), their scales quantized again (compress_statistics: the
dynamic 8-bit map in blocks of 256 after the mean is taken off), and row-wise int8 (int8_vectorwise_quant). All of these
have CPU implementations in bitsandbytes 0.50; nothing is computed here.
Every record is a line of its name and sizes followed by lines of values; floats are the hexadecimal of their bits.
Usage: python tools/make_bitsandbytes_vectors.py   (needs bitsandbytes and torch)
"""

import pathlib

import bitsandbytes.functional as bnb
import torch


def hexes(values: torch.Tensor) -> str:
    return " ".join(f"{v & 0xFFFFFFFF:08x}" for v in values.detach().float().flatten().view(torch.int32).tolist())


def ints(values: torch.Tensor) -> str:
    return " ".join(str(v) for v in values.flatten().tolist())


def sources(generator: torch.Generator, many: bool) -> list[torch.Tensor]:
    def normal(count: int, std: float) -> torch.Tensor:
        return torch.randn(count, generator=generator) * std

    blocks = 260 if many else 3  # more than one block of scales
    spread = normal(64 * blocks, 0.02) * torch.exp(normal(blocks, 0.7)).repeat_interleave(64)
    # Ends, middles between neighbouring codes, zeros of both signs, subnormal numbers.
    edges = torch.tensor([1.0, -1.0, 0.0, -0.0, 0.5, -0.5, 0.25, 1 / 3, 2 / 3, 1e-3, 0.0026, 1e-40, -1e-40, 0.9999])
    nf4 = bnb.get_4bit_type("nf4", device="cpu")
    fp4 = bnb.get_4bit_type("fp4", device="cpu").sort().values
    middles = [torch.cat([torch.tensor([1.0]), (code[1:] + code[:-1]) / 2]) for code in (nf4, fp4)]
    return [normal(64, 1.0), normal(64 * 5, 0.02), normal(100, 3.0), normal(30, 1e-3), spread, edges, *middles,
            torch.zeros(70), torch.full((64,), 1e-42), torch.tensor([3e38, -1e38] * 32)]


def write_4bit(file, name: str, source: torch.Tensor) -> None:
    packed, state = bnb.quantize_4bit(source, blocksize=64, quant_type=name)
    reals = torch.ops.bitsandbytes.dequantize_4bit.default(packed, state.absmax, 64, name, source.shape, torch.float32)
    nested, nested_state = bnb.quantize_4bit(source, blocksize=64, quant_type=name, compress_statistics=True)
    assert torch.equal(packed, nested)
    scales = bnb.dequantize_blockwise(nested_state.absmax, nested_state.state2) + nested_state.offset
    file.write(f"4bit {name} {source.numel()} {state.absmax.numel()} {nested_state.state2.absmax.numel()}\n")
    file.write(f"{hexes(source)}\n{ints(packed)}\n{hexes(state.absmax)}\n{hexes(reals)}\n")
    file.write(f"{hexes(nested_state.offset)}\n{ints(nested_state.absmax)}\n{hexes(nested_state.state2.absmax)}\n")
    file.write(f"{hexes(scales)}\n")


def write_int8(file, source: torch.Tensor) -> None:
    codes, stats, _ = torch.ops.bitsandbytes.int8_vectorwise_quant.default(source.clone(), 0.0)
    reals = torch.ops.bitsandbytes.int8_vectorwise_dequant.default(codes, stats)
    file.write(f"int8 {source.shape[0]} {source.shape[1]}\n")
    file.write(f"{hexes(source)}\n{ints(codes)}\n{hexes(stats)}\n{hexes(reals)}\n")


def main() -> None:
    generator = torch.Generator().manual_seed(11)
    path = pathlib.Path(__file__).parent.parent / "tests/kernels/data/bitsandbytes_vectors.txt"
    with path.open("w") as file:
        file.write(f"map\n{hexes(bnb.create_dynamic_map())}\n")
        for name in ("nf4", "fp4"):
            for source in sources(generator, name == "nf4"):
                write_4bit(file, name, source)
        for rows, cols, std in [(5, 64, 1.0), (16, 130, 0.02), (3, 768, 5.0)]:
            write_int8(file, torch.randn(rows, cols, generator=generator) * std)
        write_int8(file, torch.tensor([[127.0, 0.5, 1.5, -2.5], [1.0, 1e-3, -1.0, 0.0], [1e-30, -1e-30, 5e-31, 0.0]]))


if __name__ == "__main__":
    main()
