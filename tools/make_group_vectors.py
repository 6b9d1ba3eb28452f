"""Writes tests/kernels/data/group_vectors.txt: group schemes as docs/numerics.md defines them, computed in float64.

Each f32(...) of the formulas is one explicit rounding of a float64 number (a quotient of two f32 numbers rounded twice
is rounded once), so the file does not depend on this project's code. Line: `bits group asymmetric count`, then the row, the scales,
the zero points, the codes and the reals; floats as the hexadecimal of their bits.
Usage: python tools/make_group_vectors.py
"""

import math
import pathlib
import random
import struct

LARGEST_BF16 = struct.unpack("<f", struct.pack("<I", 0x7F7F0000))[0]


def f32(x: float) -> float:
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def bf16(x: float) -> float:
    if x > LARGEST_BF16:
        return LARGEST_BF16
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    low = bits & 0xFFFF
    bits -= low
    if low > 0x8000 or (low == 0x8000 and bits & 0x10000):
        bits += 0x10000
    return min(struct.unpack("<f", struct.pack("<I", bits))[0], LARGEST_BF16)


def clamp(x: float, low: int, high: int) -> int:
    return int(min(max(x, low), high))


def quantize(x: list[float], bits: int, asymmetric: bool) -> tuple[float, int, list[int], list[float]]:
    top = 2 ** (bits - 1) - 1
    if asymmetric:
        bottom = max(-top - 1, -127)
        low, high = min(0.0, *x), max(0.0, *x)
        scale = bf16(f32(f32(high - low) / (top - bottom)))
        # round() of Python rounds ties to even.
        zero = min(round(f32(bottom - (f32(low / scale) if scale else 0.0))), top)
    else:
        bottom, zero = -top, 0
        scale = bf16(f32(max(abs(v) for v in x) / top))
    codes = [clamp(round(f32(v / scale)) + zero, bottom, top) if scale else zero for v in x]
    return scale, zero, codes, [f32((q - zero) * scale) for q in codes]


def rows(group: int, generator: random.Random) -> list[list[float]]:
    result = []
    for count, std, mean in [(group + 5, 0.02, 0.0), (generator.randrange(1, group), 1.0, 0.5)]:
        result.append([f32(generator.gauss(mean, std)) for _ in range(count)])
    if group != 32:
        return result
    edge = [
        [0.0] * 9,
        [0.0, -0.0, 3.0, -3.0],
        [-1e-3, -2e-3, -5e-4, -100.0],
        [1e-3, 2e-3, 5e-4, 100.0],
        [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5],
        [7.0, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5, -6.5, -8.0],
        [1e-40, -1.4e-45, 1.17549435e-38, -1e-39],
        [1e-44, -3e-45],
        [3.4028234663852886e38, -1.7e38, 1e38],
        [3.4028234663852886e38, -3.4028234663852886e38, 1.0],
    ]
    return result + [[f32(v) for v in row] for row in edge]


def hex_bits(values: list[float]) -> str:
    return " ".join(struct.pack(">f", v).hex() for v in values)


def main() -> None:
    generator = random.Random(7)
    path = pathlib.Path(__file__).parent.parent / "tests/kernels/data/group_vectors.txt"
    with path.open("w") as file:
        for bits in range(2, 9):
            for group in (32, 64, 128):
                for asymmetric in (False, True):
                    for row in rows(group, generator):
                        parts = [quantize(row[i : i + group], bits, asymmetric) for i in range(0, len(row), group)]
                        file.write(f"{bits} {group} {int(asymmetric)} {len(row)}\n{hex_bits(row)}\n")
                        file.write(hex_bits([p[0] for p in parts]) + "\n")
                        file.write(" ".join(str(p[1]) for p in parts) + "\n")
                        file.write(" ".join(str(q) for p in parts for q in p[2]) + "\n")
                        file.write(hex_bits([r for p in parts for r in p[3]]) + "\n")


if __name__ == "__main__":
    main()
