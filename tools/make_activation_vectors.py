"""Writes tests/kernels/data/activation_vectors.txt: rows of activations quantized as docs/numerics.md, "Activations", defines, in float64.

Each f32(...) of the formulas is one explicit rounding of a float64 number (sums, products and quotients of two f32 numbers rounded twice
are rounded once), so the file does not depend on this project's code. Line: `bits group asymmetric count` and the clip factor as the
hexadecimal of its bits, then the row, the scales and the codes. Usage: python tools/make_activation_vectors.py
"""

import pathlib
import random

from make_group_vectors import clamp, f32, hex_bits


def quantize(x: list[float], bits: int, asymmetric: bool, clip: float) -> tuple[float, list[int]]:
    epsilon = f32(1e-6)
    if asymmetric and bits < 8:
        low, high = f32(min(0.0, *x) * clip), f32(max(0.0, *x) * clip)
        span, steps = f32(high - low), 2**bits - 1
    else:
        low, high = None, f32(max(abs(v) for v in x) * clip)
        span, steps = high, 2 ** (bits - 1) - 1
    s = f32(steps * f32(1 / f32(span + epsilon)))
    bottom = -steps if low is None else round(f32(low * s))
    top = steps if low is None else bottom + steps
    return f32(1 / f32(s + epsilon)), [clamp(round(f32(v * s)), bottom, top) for v in x]


def rows(group: int, generator: random.Random) -> list[list[float]]:
    count = group + 5 if group else 70
    result = [[generator.gauss(mean, std) for _ in range(count)] for std, mean in [(0.02, 0.0), (1.0, 0.7), (3.0, -2.0)]]
    result.append([max(-0.17, v) for v in result[1]])  # as after gelu
    if group == 0:
        result += [[0.0] * 9, [0.0, -0.0, 3.0, -3.0], [5.0, 6.0, 7.0], [-5.0, -6.0, -100.0], [15.5, 0.5, 0.0, 7.5], [1e-7, -2e-7], [7.5, -7.5, 0.5]]
    return [[f32(v) for v in row] for row in result]


def main() -> None:
    generator = random.Random(11)
    path = pathlib.Path(__file__).parent.parent / "tests/kernels/data/activation_vectors.txt"
    with path.open("w") as file:
        for bits in range(2, 9):
            for group in (0, 32, 64, 128):
                for asymmetric in (False, True):
                    for clip in (1.0, f32(0.6)):
                        for row in rows(group, generator):
                            size = group or len(row)
                            parts = [quantize(row[i : i + size], bits, asymmetric, clip) for i in range(0, len(row), size)]
                            file.write(f"{bits} {group} {int(asymmetric)} {len(row)}\n{hex_bits([clip])}\n{hex_bits(row)}\n")
                            file.write(hex_bits([p[0] for p in parts]) + "\n")
                            file.write(" ".join(str(q) for p in parts for q in p[1]) + "\n")


if __name__ == "__main__":
    main()
