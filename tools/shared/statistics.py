"""Statistics of the experiments: paired bootstraps, intervals of shares, tests of accuracies,
ranks. Standard library only.

The program has its own in src/core/statistics.h, for what it reports itself.
"""

import math
import operator
import random
import statistics as basic

DRAWS = 2000
SEED = 20240229
Z95 = 1.959963984540054


def mean(values):
    return sum(values) / len(values)


def mean_and_spread(values):
    """Mean and sample standard deviation (0 for one value)."""
    return basic.fmean(values), basic.stdev(values) if len(values) > 1 else 0.0


def interval(draws):
    """The percentile interval of 95 %."""
    ordered = sorted(draws)
    last = len(ordered) - 1
    return ordered[int(0.025 * last)], ordered[round(0.975 * last)]


class Bootstrap:
    """Resamples questions and seeds with replacement, the same draws for every comparison.

    Both are drawn, because both are samples: a difference that one seed made is not certain,
    however many questions saw it.
    """

    def __init__(self, questions, seeds, draws=DRAWS, seed=SEED):
        stream = random.Random(f"{seed} {questions} {seeds}")
        self.questions, self.seeds = questions, seeds
        self.draws = []
        for _ in range(draws):
            counts = [0] * questions
            for drawn in stream.choices(range(questions), k=questions):
                counts[drawn] += 1
            weights = [0] * seeds
            for drawn in stream.choices(range(seeds), k=seeds):
                weights[drawn] += 1
            self.draws.append((counts, weights))

    def difference(self, scores, reference):
        """Mean of scores - reference, [seed][question] each and paired in both; its standard error
        and 95 % interval."""
        shape = [self.questions] * self.seeds
        if [len(row) for row in scores] != shape or [len(row) for row in reference] != shape:
            raise ValueError(f"expected {self.seeds} seeds of {self.questions} questions")
        gaps = [list(map(operator.sub, a, b)) for a, b in zip(scores, reference, strict=True)]
        total = self.questions * self.seeds
        places = [q for q in range(self.questions) if any(gap[q] for gap in gaps)]
        values = [[gap[q] for q in places] for gap in gaps]
        means = []
        for counts, weights in self.draws:
            drawn = [counts[q] for q in places]
            of_seeds = (
                weight * sum(map(operator.mul, drawn, value))
                for weight, value in zip(weights, values, strict=True)
                if weight
            )
            means.append(sum(of_seeds) / total)
        means.sort()
        # Not those of interval(): published tables hold the draws at these shares of their number.
        low, high = (
            means[min(len(means) - 1, int(share * len(means)))] for share in (0.025, 0.975)
        )
        return {
            "mean": sum(map(sum, gaps)) / total,
            "standard_error": basic.pstdev(means),
            "low": low,
            "high": high,
        }


def group_difference(group, other):
    """Mean over units and samples of group less other, [unit][sample] each and paired by sample.

    Two 95 % intervals: over samples, and over units (what other units of the same kinds would say).
    """
    samples = len(group[0])
    by_sample = [
        mean([unit[s] for unit in group]) - mean([unit[s] for unit in other])
        for s in range(samples)
    ]
    stream = random.Random(SEED)
    over_samples = [mean(stream.choices(by_sample, k=samples)) for _ in range(DRAWS)]
    means, others = [mean(unit) for unit in group], [mean(unit) for unit in other]
    over_units = [
        mean(stream.choices(means, k=len(group))) - mean(stream.choices(others, k=len(other)))
        for _ in range(DRAWS)
    ]
    return {
        "difference": mean(by_sample),
        "interval": interval(over_samples),
        "units_interval": interval(over_units),
        "mean": mean(means),
        "other_mean": mean(others),
    }


def wilson(share, count):
    """95 % interval of a share (0..1) of count trials (Wilson 1927).

    A mean over several draws of every trial varies less than one draw of each, so that the interval
    is then wide enough.
    """
    if count == 0:
        return 0.0, 1.0
    middle = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    variance = share * (1 - share) / count + Z95**2 / (4 * count**2)
    half = Z95 / (1 + Z95**2 / count) * math.sqrt(variance)
    return max(0.0, middle - half), min(1.0, middle + half)


def normal_tails(z):
    return math.erfc(abs(z) / math.sqrt(2))


def two_proportions(first, first_count, second, second_count):
    """Two-sided p of equal shares of independent trials, pooled variance."""
    pooled = (first * first_count + second * second_count) / (first_count + second_count)
    variance = pooled * (1 - pooled) * (1 / first_count + 1 / second_count)
    return 1.0 if variance == 0 else normal_tails((first - second) / math.sqrt(variance))


def mcnemar(first, second):
    """(only first right, only second right, two-sided exact p) of pairs (McNemar 1947)."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} outcomes, expected pairs")
    only_first = sum(1 for a, b in zip(first, second, strict=True) if a and not b)
    only_second = sum(1 for a, b in zip(first, second, strict=True) if b and not a)
    count, low = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(count, k) for k in range(low + 1)) / 2**count
    return only_first, only_second, min(1.0, 2 * tail)


def ranks(values):
    """From 0, tied values share their mean."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    first = 0
    while first < len(order):
        end = first
        while end < len(order) and values[order[end]] == values[order[first]]:
            end += 1
        for index in order[first:end]:
            found[index] = (first + end - 1) / 2
        first = end
    return found


def rank_correlation(first, second):
    """Spearman's; 0 where all values of one side are equal."""
    middle = (len(first) - 1) / 2
    a, b = ([rank - middle for rank in ranks(values)] for values in (first, second))
    size = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / size if size > 0 else 0.0
