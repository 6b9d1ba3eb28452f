"""Intervals and tests of accuracies: Wilson, two proportions, McNemar."""
import math

Z95 = 1.959963984540054


def wilson(share, count):
    """95 % interval of a share (0..1) of count trials (Wilson 1927).

    A mean over several draws of every trial varies less than one draw of each, so that the interval is then wide enough.
    """
    if count == 0:
        return 0.0, 1.0
    middle = (share + Z95 ** 2 / (2 * count)) / (1 + Z95 ** 2 / count)
    half = Z95 / (1 + Z95 ** 2 / count) * math.sqrt(share * (1 - share) / count + Z95 ** 2 / (4 * count ** 2))
    return max(0.0, middle - half), min(1.0, middle + half)


def normal_tails(z):
    return math.erfc(abs(z) / math.sqrt(2))


def two_proportions(first, first_count, second, second_count):
    """Two-sided p of equal shares of independent trials, pooled variance."""
    pooled = (first * first_count + second * second_count) / (first_count + second_count)
    variance = pooled * (1 - pooled) * (1 / first_count + 1 / second_count)
    return 1.0 if variance == 0 else normal_tails((first - second) / math.sqrt(variance))


def mcnemar(first, second):
    """(only first right, only second right, two-sided exact p) of paired outcomes (McNemar 1947)."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} outcomes, expected pairs")
    only_first = sum(1 for a, b in zip(first, second) if a and not b)
    only_second = sum(1 for a, b in zip(first, second) if b and not a)
    count, low = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(count, k) for k in range(low + 1)) / 2 ** count
    return only_first, only_second, min(1.0, 2 * tail)
