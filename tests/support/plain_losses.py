"""The losses of SimCLR, SwAV, VICReg and iBOT as loops over numbers: oracles for the fast ones.

Written from the papers' equations, in float64; no function of ours is used.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def nt_xent(
    z: Array, images: Sequence[int], clips: Sequence[int], *, temperature: float, siblings: str
) -> float:
    """Chen et al. 2020, equation 1, with any number of views of an image."""
    unit = [row / math.sqrt(sum(row * row)) for row in z]
    losses = []
    for i in range(len(z)):
        positive, candidates = 0.0, 0.0
        for j in range(len(z)):
            if i == j:
                continue
            share = math.exp(float(unit[i] @ unit[j]) / temperature)
            is_view, is_sibling = images[i] == images[j], clips[i] == clips[j]
            if is_view or (is_sibling and siblings == "positive"):
                positive += share
            if is_view or not is_sibling or siblings != "exclude":
                candidates += share
        losses.append(-math.log(positive / candidates))
    return sum(losses) / len(losses)


def balanced(logits: Array, *, epsilon: float, iterations: int) -> Array:
    """Caron et al. 2020, equation 3: rows are images, columns prototypes."""
    codes = np.exp((logits - logits.max()) / epsilon)
    codes = codes / codes.sum()
    for _ in range(iterations):
        for k in range(codes.shape[1]):
            codes[:, k] /= codes[:, k].sum() * codes.shape[1]
        for i in range(codes.shape[0]):
            codes[i] /= codes[i].sum() * codes.shape[0]
    result: Array = codes * len(codes)
    return result


def swapped(logits: Array, codes: Array, *, temperature: float) -> float:
    """Caron et al. 2020, equation 2 and section 3.3: logits (V, M, K), codes (G, M, K)."""
    total, pairs = 0.0, 0
    for g in range(len(codes)):
        for v in range(len(logits)):
            if g == v:
                continue
            pairs += 1
            for i in range(logits.shape[1]):
                scaled = logits[v, i] / temperature
                normalizer = math.log(sum(np.exp(scaled - scaled.max()))) + scaled.max()
                total -= float(codes[g, i] @ (scaled - normalizer)) / logits.shape[1]
    return total / pairs


def vicreg(x: Array, y: Array) -> tuple[float, float, float]:
    """Bardes et al. 2022, equations 1 to 5; the invariance is a mean over dimensions too."""
    count, width = x.shape
    invariance = sum((x[i, d] - y[i, d]) ** 2 for i in range(count) for d in range(width))
    variance = covariance = 0.0
    for z in (x, y):
        means = [sum(z[:, d]) / count for d in range(width)]
        for d in range(width):
            for e in range(width):
                shared = sum((z[:, d] - means[d]) * (z[:, e] - means[e])) / (count - 1)
                if d == e:
                    variance += max(0.0, 1 - math.sqrt(shared + 1e-4)) / width
                else:
                    covariance += shared**2 / width
    return invariance / (count * width), variance, covariance


def ibot_patch(student: Array, targets: Array, masks: NDArray[np.bool_], *, temp: float) -> float:
    """Zhou et al. 2022, equation 2: student and targets (images, N, K), masks (images, N)."""
    total = 0.0
    for image in range(len(masks)):
        losses = []
        for n in np.flatnonzero(masks[image]):
            scaled = student[image, n] / temp
            normalizer = math.log(sum(np.exp(scaled - scaled.max()))) + scaled.max()
            losses.append(-float(targets[image, n] @ (scaled - normalizer)))
        total += sum(losses) / max(1, len(losses))
    return total / len(masks)
