"""Scores of many tokens as figures with uncertainties: those that llama.cpp's ``tools/perplexity`` reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ggufrun.evaluate.perplexity import Doubles, Scores

KLD_QUANTILES = (0.999, 0.99, 0.95, 0.90, 0.50, 0.10, 0.05, 0.01, 0.001)
CHANGE_QUANTILES = (0.999, 0.99, 0.95, 0.90, 0.75, 0.50, 0.25, 0.10, 0.05, 0.01, 0.001)


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error."""

    value: float
    error: float

    def scaled(self, factor: float) -> Estimate:
        """Both, times ``factor``."""
        return Estimate(self.value * factor, self.error * factor)


@dataclass(frozen=True)
class Spread:
    """Where values lie: the extremes, and (fraction, value) pairs from the largest fraction down."""

    maximum: float
    quantiles: tuple[tuple[float, float], ...]
    minimum: float

    def at(self, fraction: float) -> float:
        """The quantile at ``fraction``, one of those computed."""
        return dict(self.quantiles)[fraction]


@dataclass(frozen=True)
class Comparison:
    """A model beside its reference.

    ``log_ratio`` is ln(PPL/PPL(reference)); ``kld`` the Kullback-Leibler divergence in nats a token; ``change`` what
    the model gives the right token more than the reference does, as a probability, ``rms_change`` its root mean square;
    ``same_top`` the share of tokens for which both hold the same one for the most probable.
    """

    tokens: int
    perplexity: Estimate
    reference: Estimate
    correlation: float
    log_ratio: Estimate
    kld: Estimate
    kld_spread: Spread
    change: Estimate
    change_spread: Spread
    rms_change: Estimate
    same_top: Estimate

    @property
    def ratio(self) -> Estimate:
        """PPL/PPL(reference)."""
        value = math.exp(self.log_ratio.value)
        return Estimate(value, value * self.log_ratio.error)

    @property
    def difference(self) -> Estimate:
        """PPL - PPL(reference)."""
        # covariance of the perplexities, from that of their logarithms
        mine, theirs = self.perplexity, self.reference
        covariance = self.correlation * mine.error * theirs.error
        variance = mine.error**2 + theirs.error**2 - 2 * covariance
        return Estimate(mine.value - theirs.value, math.sqrt(max(0.0, variance)))


def mean(values: Doubles) -> Estimate:
    """The mean and its standard error, 0 for a handful of values."""
    if not len(values):
        return Estimate(0.0, 0.0)
    average = float(values.mean())
    variance = float(np.square(values).mean()) - average * average
    error = math.sqrt(variance / (len(values) - 1)) if variance > 0 and len(values) > 10 else 0.0
    return Estimate(average, error)


def perplexity(nll: Doubles) -> Estimate:
    """exp of the mean."""
    log = mean(nll)
    value = math.exp(log.value) if log.value < 700 else math.inf
    return Estimate(value, value * log.error)


def compare(scores: Scores) -> Comparison:
    """Figures over all tokens of ``scores``."""
    count = len(scores.nll)
    log, log_base = mean(scores.nll), mean(scores.nll_base)
    covariance = 0.0
    if count >= 10:
        covariance = float((scores.nll * scores.nll_base).mean()) - log.value * log_base.value
        covariance /= count - 1
    variance = log.error**2 + log_base.error**2 - 2 * covariance
    change = np.exp(-scores.nll) - np.exp(-scores.nll_base)
    mean_square = mean(np.square(change))
    rms = math.sqrt(mean_square.value)
    top = float(scores.same_top.mean())
    errors = log.error * log_base.error
    return Comparison(
        tokens=count,
        perplexity=perplexity(scores.nll),
        reference=perplexity(scores.nll_base),
        correlation=covariance / errors if errors else 0.0,
        log_ratio=Estimate(log.value - log_base.value, math.sqrt(max(0.0, variance))),
        kld=mean(scores.kld),
        kld_spread=_spread(scores.kld, KLD_QUANTILES),
        change=mean(change),
        change_spread=_spread(change, CHANGE_QUANTILES),
        rms_change=Estimate(rms, 0.5 / rms * mean_square.error if rms else 0.0),
        same_top=Estimate(top, math.sqrt(top * (1 - top) / (count - 1)) if count > 1 else 0.0),
    )


def _spread(values: Doubles, fractions: tuple[float, ...]) -> Spread:
    found = np.quantile(values, fractions)
    return Spread(
        float(values.max()),
        tuple((fraction, float(value)) for fraction, value in zip(fractions, found, strict=True)),
        float(values.min()),
    )
