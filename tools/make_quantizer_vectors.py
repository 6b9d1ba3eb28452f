"""Writes tests/kernels/data/quantizer_vectors.txt: codes and reals of scheme seed (docs/numerics.md).

Uses PyTorch in float32 and the original's expression as it is written, so the file does not depend on this project's
code. Line: `bits count`, then the row, the codes and the reals; floats as the hexadecimal of their bits.
Usage: python tools/make_quantizer_vectors.py
"""

import pathlib

import torch


def quantize(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    s = (2 ** (bits - 1) - 1) / (x.abs().max() + 1e-6)
    codes = torch.round(x * s)
    return codes, codes / (s + 1e-6)


def rows() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(20)
    edge = [
        [0.0] * 9,
        [0.0, -0.0, 0.0],
        [3.0],
        [-3.0],
        [1e-3, -2e-3, 5e-4, 100.0],
        [-100.0, 1e-3, 49.9, 50.0, 50.1],
        [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5],
        [7.0, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5, -6.5],
        [1.0, 0.5, -0.5, 0.25, -0.25],
        [1e-6, -1e-6, 5e-7],
        [1e-7, -3e-8],
        [1e-40, -1.4e-45, 1.17549435e-38, -1e-39],
        [1e30, -1e30, 5e29, 1.0, 0.0],
        [3.4028234663852886e38, -1.7e38, 1e38],
        [1e6, 1e5, -1e4, 3.0],
        [float(i) for i in range(-16, 17)],
    ]
    result = [torch.tensor(row, dtype=torch.float32) for row in edge]
    for count, std in [(1, 1.0), (2, 0.02), (7, 1.0), (8, 30.0), (15, 0.1), (16, 1.0), (17, 1e-4), (33, 5.0), (64, 0.02)]:
        result.append(torch.randn(count, generator=generator) * std)
    return result


def rows_on_the_fence(bits: int, count: int) -> list[torch.Tensor]:
    """Rows whose codes tell the original's two roundings of s (reciprocal, then times L) from one division."""
    generator = torch.Generator().manual_seed(bits)
    levels = 2 ** (bits - 1) - 1
    result: list[torch.Tensor] = []
    while len(result) < count:
        largest = torch.rand(1, generator=generator) * 8 + 0.1
        one_rounding = torch.full_like(largest, levels) / (largest + 1e-6)
        ties = (torch.arange(levels, dtype=torch.float32) + 0.5) / one_rounding
        near = [ties]
        for _ in range(2):
            near = [torch.nextafter(near[0], torch.tensor(0.0)), *near, torch.nextafter(near[-1], torch.tensor(9e9))]
        row = torch.cat([torch.stack(near, 1).flatten()[:64], largest])
        if not torch.equal(torch.round(row * one_rounding), quantize(row, bits)[0]):
            result.append(row)
    return result


def hex_bits(x: torch.Tensor) -> str:
    return " ".join(f"{v & 0xFFFFFFFF:08x}" for v in x.view(torch.int32).tolist())


def main() -> None:
    torch.set_num_threads(1)
    path = pathlib.Path(__file__).parent.parent / "tests/kernels/data/quantizer_vectors.txt"
    with path.open("w") as file:
        for bits in range(2, 9):
            num_fence = 0 if bits == 2 else 2  # L = 1 changes nothing
            for row in rows() + rows_on_the_fence(bits, num_fence):
                codes, reals = quantize(row, bits)
                file.write(f"{bits} {len(row)}\n{hex_bits(row)}\n")
                file.write(" ".join(str(int(c)) for c in codes.tolist()) + "\n" + hex_bits(reals) + "\n")


if __name__ == "__main__":
    main()
