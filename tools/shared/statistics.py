"""Paired bootstrap over questions and seeds, and the choice of a learning rate."""
import operator
import random
import statistics as basic

DRAWS = 2000
SEED = 20240229


class Bootstrap:
    """Resamples questions and seeds with replacement, the same draws for every comparison.

    Both are drawn, because both are samples: a difference that one seed made is not certain, however many questions saw it.
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
        """Mean of scores - reference, [seed][question] each and paired in both; its standard error and 95 % interval."""
        if [len(row) for row in scores] != [self.questions] * self.seeds or \
                [len(row) for row in reference] != [self.questions] * self.seeds:
            raise ValueError(f"expected {self.seeds} seeds of {self.questions} questions")
        gaps = [list(map(operator.sub, a, b)) for a, b in zip(scores, reference)]
        total = self.questions * self.seeds
        mean = sum(map(sum, gaps)) / total
        places = [q for q in range(self.questions) if any(gap[q] for gap in gaps)]
        values = [[gap[q] for q in places] for gap in gaps]
        means = []
        for counts, weights in self.draws:
            drawn = [counts[q] for q in places]
            means.append(sum(weight * sum(map(operator.mul, drawn, value))
                             for weight, value in zip(weights, values) if weight) / total)
        means.sort()
        low, high = (means[min(len(means) - 1, int(share * len(means)))] for share in (0.025, 0.975))
        return {"mean": mean, "standard_error": basic.pstdev(means), "low": low, "high": high}


def mean_and_spread(values):
    """Mean and sample standard deviation (0 for one value)."""
    return basic.fmean(values), basic.stdev(values) if len(values) > 1 else 0.0


def choose_rate(scores):
    """The rate of the highest mean score, {rate: [score, ...]}; the first of equals."""
    return max(scores, key=lambda rate: basic.fmean(scores[rate]))


def deviation(tokens, reference):
    return abs(tokens - reference) / reference
