"""The codes behind a voice: each row of `[N, dim]` is a sum of one table row per codebook, rounded to BF16.

Three searches, each for the rows that the one before left unexplained:
1. Linear: with the acoustic codebooks as Gaussian disturbance, the best semantic row; then ridge regression for the
   acoustic ones. Exact wherever the table is wider than the acoustic codebooks' 36 * 22 degrees of freedom.
2. Coordinate descent over the codebooks until none gets better; in narrow tables, such as the miniatures', again from
   where expectation propagation ends (Minka, 2001, "Expectation propagation for approximate Bayesian inference").
3. Descent over pairs of codebooks.

An explanation counts when its residual is no larger than BF16 rounding makes it. A second explanation as good makes the
row ambiguous. Where the table is wide enough, singular values prove that there is none; elsewhere all changes of one
code and of two codes are tried.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlx_voxclone.model.codes import end_frame, from_lm
from mlx_voxclone.model.config import N_SPECIAL_CODES

TABLE = "mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight"
TOLERANCE = 2.0  # residual over expected rounding; rounding itself gives 1, its worst case 1.7
EXACT, END, SPECIAL, AMBIGUOUS, UNEXPLAINED = "exact", "END", "special", "ambiguous", "unexplained"
_MAX_SWEEPS, _PAIR_ROUNDS = 30, 10
_PAIR_SEMANTICS = 256  # semantic codes that take part in pair moves: those that fit best
_NARROW = 256  # columns up to which a matrix [dim, dim] per codebook and row is affordable
_EP_ROUNDS, _EP_DAMPING = 80, 0.5
_BLOCK = 256  # rows at once: bounds the memory of the scores [rows, 8194]


@dataclass(frozen=True)
class Inversion:
    """What was found behind the rows of a voice.

    Attributes:
        codes: int32 `[codebooks, N]`, 0-based (special codes are negative); the nearest found where not exact.
        residuals: float64 `[N]`: root mean square of what the codes leave over, relative to what rounding the row to
            BF16 leaves on average (spacing / sqrt(12)); about 1 for a true explanation.
        status: per row `exact`, `END` (the frame after the last), `special` (a sum, but with special codes among the
            others, which no audio has), `ambiguous` or `unexplained`.
    """

    codes: np.ndarray
    residuals: np.ndarray
    status: list[str]

    def rows(self, *status: str) -> list[int]:
        """Numbers of the rows with one of these statuses."""
        return [i for i, s in enumerate(self.status) if s in status]


def rounding_error(rows: np.ndarray) -> np.ndarray:
    """Expected root mean square error of rounding to BF16, per row of `[N, dim]`: spacing / sqrt(12)."""
    _, exponent = np.frexp(rows)
    spacing = np.where(rows == 0, 0.0, np.ldexp(1.0, exponent - 8))  # 8 bits with the leading one
    return np.maximum(np.sqrt(np.square(spacing).mean(axis=1) / 12), np.finfo(np.float32).tiny)


def end_row(weights: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """`[dim]`: the sum for the END frame `[1, 0, 0, ...]`; arguments as for `CodeTable`."""
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return weights[offsets + end_frame(len(sizes))].sum(axis=0, dtype=np.float64)


def is_end(rows: np.ndarray, end: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Whether rows `[N, dim]` are the END frame's `[dim]` up to rounding, bool `[N]`."""
    return np.sqrt(np.square(rows - end).mean(axis=1)) <= tolerance * rounding_error(rows)


class CodeTable:
    """The LM's audio table, prepared for inversion (the products of its rows take seconds at the release's size).

    Args:
        weights: float32 `[rows, dim]`.
        sizes: rows of each codebook (`CodecConfig.code_sizes`): the large semantic one first; special codes included.

    Raises:
        ValueError: fewer rows than the codebooks need, acoustic codebooks that differ in size, or numbers that are not
            finite.
    """

    def __init__(self, weights: np.ndarray, sizes: Sequence[int]):
        if len(sizes) < 2 or len(set(sizes[1:])) > 1:
            raise ValueError(f"codebooks of {list(sizes)} rows: one semantic and equal acoustic ones expected")
        if weights.ndim != 2 or weights.shape[0] < sum(sizes):
            raise ValueError(f"a table {list(weights.shape)} for codebooks of {sum(sizes)} rows")
        self.sizes = tuple(sizes)
        self.offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.table = weights[: sum(sizes)].astype(np.float64)
        if not np.isfinite(self.table).all():
            raise ValueError("the table holds numbers that are not finite")
        self.norms = np.square(self.table).sum(axis=1)
        n_semantic = self.sizes[0]
        self.semantic = self.table[:n_semantic]
        self.group = np.repeat(np.arange(1, len(sizes)), sizes[1:])  # codebook of each acoustic row
        means = [self.table[o : o + s].mean(axis=0) for o, s in zip(self.offsets[1:], sizes[1:])]
        self.mean = np.sum(means, axis=0)
        # Centred: that each codebook gives one row is then built in, and differences within a codebook are the same.
        self.acoustic = self.table[n_semantic:] - np.stack(means)[self.group - 1]
        self.gram = self.acoustic @ self.acoustic.T
        self.cross = self.semantic @ self.acoustic.T
        self.values, self.vectors = np.linalg.eigh(self.gram)

    @property
    def dim(self) -> int:
        return self.table.shape[1]

    def sums(self, codes: np.ndarray) -> np.ndarray:
        """`[N, codebooks]` (special codes counted) to `[N, dim]`."""
        total = np.zeros((len(codes), self.dim))
        for k, offset in enumerate(self.offsets):
            total += self.table[offset + codes[:, k]]
        return total

    def residuals(self, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """`[N]`: what codes leave over of the rows, relative to rounding; see `Inversion`."""
        return np.sqrt(np.square(rows - self.sums(codes)).mean(axis=1)) / rounding_error(rows)

    # ---- search ----------------------------------------------------------------------------------------------------

    def linear(self, rows: np.ndarray, noise: float) -> np.ndarray:
        """Codes `[N, codebooks]` by linear estimation.

        Args:
            rows: `[N, dim]`.
            noise: expected variance of an element of the residual.
        """
        # The indicator of a codebook of n rows has covariance 1/n (centred), so the ridge is noise * n.
        ridge = noise * max(self.sizes[1:])
        inverse = self.vectors / (np.maximum(self.values, 0) + ridge) @ self.vectors.T
        weighted = self.cross @ inverse  # [semantic, acoustic]
        target = rows - self.mean
        projected = target @ self.acoustic.T
        # |d|^2 in the metric ridge * (ridge * I + A^T A)^-1, which counts only what no acoustic row can make good.
        own = self.norms[: self.sizes[0]] - (weighted * self.cross).sum(axis=1)
        score = own - 2 * (target @ self.semantic.T - projected @ weighted.T)
        codes = np.zeros((len(rows), len(self.sizes)), dtype=np.int64)
        codes[:, 0] = score.argmin(axis=1)
        weights = (projected - self.cross[codes[:, 0]]) @ inverse
        for k in range(1, len(self.sizes)):
            codes[:, k] = weights[:, self.group == k].argmax(axis=1)
        return codes

    def descend(self, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Replace one code at a time by the best, all rows at once, until none gets better."""
        codes, active = codes.copy(), np.arange(len(rows))
        for _ in range(_MAX_SWEEPS):
            now = codes[active]
            rest = rows[active] - self.sums(now)
            for k, (offset, size) in enumerate(zip(self.offsets, self.sizes)):
                book = self.table[offset : offset + size]
                rest += book[now[:, k]]
                now[:, k] = (self.norms[offset : offset + size] - 2 * rest @ book.T).argmin(axis=1)
                rest -= book[now[:, k]]
            moved = (now != codes[active]).any(axis=1)
            codes[active] = now
            active = active[moved]
            if not len(active):
                break
        return codes

    def descend_pairs(self, row: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Replace the best pair of codes, then descend, until neither helps: `[dim]`, `[codebooks]`."""
        for _ in range(_PAIR_ROUNDS):
            books, candidates, change = self._pair_changes(row, codes)
            i, j = np.unravel_index(change.argmin(), change.shape)
            if change[i, j] >= -1e-9 * np.square(row).sum():
                break
            codes = codes.copy()
            codes[books[[i, j]]] = candidates[[i, j]]
            codes = self.descend(row[None], codes[None])[0]
        return codes

    def _pair_changes(self, row: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What replacing two codes (or one: the other by itself) changes in the squared residual.

        Returns:
            Codebook `[m]` and code `[m]` of each candidate, change `[m, m]`; inf for two of one codebook.
        """
        rest = row - self.sums(codes[None])[0]
        now = self.offsets + codes
        acoustic_now = (now[1:] - self.sizes[0])[self.group - 1]  # the current row of each acoustic row's codebook
        inner, norms = self.table @ rest, self.norms
        book = np.concatenate([np.zeros(self.sizes[0], dtype=np.int64), self.group])
        current = now[book]
        distance = norms + norms[current]
        distance[: self.sizes[0]] -= 2 * self.semantic @ self.semantic[codes[0]]
        place = np.arange(len(self.group))
        g = self.gram
        distance[self.sizes[0] :] = g[place, place] + g[acoustic_now, acoustic_now] - 2 * g[place, acoustic_now]
        single = distance - 2 * (inner - inner[current])
        chosen = np.argsort(single[: self.sizes[0]], kind="stable")[:_PAIR_SEMANTICS]
        cross = self.cross[chosen] - self.cross[codes[0]]
        cross = cross - cross[:, acoustic_now]
        both = g - g[acoustic_now] - g[:, acoustic_now] + g[np.ix_(acoustic_now, acoustic_now)]
        m = len(chosen)
        change = np.empty((m + len(place), m + len(place)))
        change[:m, :m] = 0
        change[:m, m:], change[m:, :m], change[m:, m:] = 2 * cross, 2 * cross.T, 2 * both
        selected = np.concatenate([chosen, self.sizes[0] + place])
        change += single[selected][:, None] + single[selected]
        books = book[selected]
        change[books[:, None] == books] = np.inf
        return books, selected - self.offsets[books], change

    def propagate(self, row: np.ndarray, noise: float) -> np.ndarray:
        """Codes `[codebooks]` of one row `[dim]` by expectation propagation; `noise` as in `linear`.

        Each codebook sees the others as a Gaussian with the mean and covariance of their present probabilities.
        """
        semantic, n_books = self.semantic, len(self.sizes) - 1
        books = self.table[self.sizes[0] :].reshape(n_books, -1, self.dim)
        p, q = np.full(self.sizes[0], 1 / self.sizes[0]), np.full(books.shape[:2], 1 / books.shape[1])
        for _ in range(_EP_ROUNDS):
            mean, means = p @ semantic, np.einsum("kc,kcd->kd", q, books)
            spread = (semantic * p[:, None]).T @ semantic - np.outer(mean, mean)
            weighted = (books * q[..., None]).reshape(-1, self.dim)
            others = weighted.T @ books.reshape(-1, self.dim) - means.T @ means + noise * np.eye(self.dim)
            rest = row - mean - means.sum(axis=0)
            new_p = _softmax(_log_likelihood(semantic, others, rest + mean)[None])[0]
            inverse = np.linalg.inv(others + spread)
            # A codebook's own spread B^T D B taken out again: B (Q - B^T D B)^-1 = (1 - M D)^-1 B Q^-1, M = B Q^-1 B^T.
            half = (books.reshape(-1, self.dim) @ inverse).reshape(books.shape)
            m = half @ books.transpose(0, 2, 1)
            d = q[:, :, None] * (np.eye(q.shape[1]) - q[:, None, :])
            right = np.concatenate([half @ (rest + means)[..., None], m], axis=2)
            solved = np.linalg.solve(np.eye(q.shape[1]) - m @ d, right)
            new_q = _softmax(solved[:, :, 0] - 0.5 * np.diagonal(solved[:, :, 1:], axis1=1, axis2=2))
            change = max(np.abs(new_p - p).max(), np.abs(new_q - q).max())
            p += _EP_DAMPING * (new_p - p)
            q += _EP_DAMPING * (new_q - q)
            if change < 1e-6:
                break
        return np.concatenate([[p.argmax()], q.argmax(axis=1)])

    # ---- judgement -------------------------------------------------------------------------------------------------

    def proven_unique(self, codes: np.ndarray, radius: np.ndarray) -> np.ndarray:
        """Whether no other codes give a sum within `radius` `[N]` (L2) of the sum of these, bool `[N]`.

        Two choices of acoustic codes differ by a vector of length >= sqrt(2) orthogonal to each codebook's constant
        vector, so their sums differ by at least sqrt(2) times the least singular value there. Two semantic rows differ
        by at least what remains of their difference outside the span of all acoustic rows. False means not proven.
        """
        free = len(self.group) - (len(self.sizes) - 1)
        if self.dim <= free:
            return np.zeros(len(codes), dtype=bool)
        least = np.sqrt(2 * max(self.values[-free], 0.0))
        inside = self._inside
        left = self.norms[: self.sizes[0]] - np.square(inside).sum(axis=1)
        chosen = codes[:, 0]
        inner = self.semantic[chosen] @ self.semantic.T - inside[chosen] @ inside.T
        gap = left[chosen][:, None] + left - 2 * inner
        gap[np.arange(len(codes)), chosen] = np.inf
        return (np.sqrt(np.maximum(gap.min(axis=1), 0)) > radius) & (least > radius)

    @cached_property
    def _inside(self) -> np.ndarray:
        """`[semantic, free]`: coordinates of the semantic rows in the span of the centred acoustic rows."""
        free = len(self.group) - (len(self.sizes) - 1)
        scale = np.sqrt(np.maximum(self.values[-free:], 1e-12 * self.values[-1] + 1e-300))
        return (self.cross @ self.vectors[:, -free:]) / scale

    def has_rival(self, row: np.ndarray, codes: np.ndarray, radius: float) -> bool:
        """Whether other codes, one or two of them changed, come within `radius` (L2) of the row `[dim]` too."""
        books, candidates, change = self._pair_changes(row, codes)
        same = candidates == codes[books]
        change[np.ix_(same, same)] = np.inf
        return bool(np.square(row - self.sums(codes[None])[0]).sum() + change.min() <= radius**2)


def _log_likelihood(book: np.ndarray, covariance: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Of each row of `[codes, dim]` as the mean of a Gaussian, up to a constant."""
    solved = np.linalg.solve(covariance, book.T)
    return target @ solved - 0.5 * (book * solved.T).sum(axis=1)


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def invert(
    table: CodeTable, rows: np.ndarray, *, tolerance: float = TOLERANCE, progress: Callable[[int], None] | None = None
) -> Inversion:
    """Recover the codes behind the rows of a voice.

    Args:
        table: of the model that the voice was made with.
        rows: `[N, dim]`, in BF16 or (unrounded) float32 values.
        tolerance: residual, relative to the rounding expected, up to which a row counts as explained. More than the
            default is for rows with noise of another kind.
        progress: called with the number of rows just done.

    Raises:
        ValueError: rows of another width than the table's, or numbers that are not finite.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != table.dim:
        raise ValueError(f"rows {list(rows.shape)} for a table {table.dim} wide")
    if not np.isfinite(rows).all():
        raise ValueError("the rows hold numbers that are not finite")
    pieces = []
    for start in range(0, len(rows), _BLOCK):
        pieces.append(_invert_block(table, rows[start : start + _BLOCK], tolerance, progress or (lambda n: None)))
    codes = np.concatenate([np.zeros((0, len(table.sizes)), dtype=np.int64), *[piece[0] for piece in pieces]])
    residuals = np.concatenate([np.zeros(0), *[piece[1] for piece in pieces]])
    status = [s for piece in pieces for s in piece[2]]
    return Inversion(from_lm(codes), residuals, status)


def _invert_block(
    table: CodeTable, rows: np.ndarray, tolerance: float, progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    error = rounding_error(rows)
    noise = np.square(error * max(1.0, tolerance / TOLERANCE))
    codes = table.descend(rows, table.linear(rows, noise.mean()))
    end = end_frame(len(table.sizes))
    codes[is_end(rows, end_row(table.table, table.sizes), tolerance)] = end
    residuals = table.residuals(rows, codes)
    for i in np.flatnonzero(residuals > tolerance):
        codes[i], residuals[i] = _search_longer(table, rows[i], codes[i], noise[i], tolerance)
        progress(1)
    progress(int((residuals <= tolerance).sum()))
    radius = tolerance * error * np.sqrt(table.dim)
    unique = table.proven_unique(codes, 2 * radius)
    status = []
    for i in range(len(rows)):
        if residuals[i] > tolerance:
            status.append(UNEXPLAINED)
        elif not unique[i] and table.has_rival(rows[i], codes[i], radius[i]):
            status.append(AMBIGUOUS)
        elif (codes[i] < N_SPECIAL_CODES).any():
            status.append(END if (codes[i] == end).all() else SPECIAL)
        else:
            status.append(EXACT)
    return codes, residuals, status


def _search_longer(
    table: CodeTable, row: np.ndarray, codes: np.ndarray, noise: float, tolerance: float
) -> tuple[np.ndarray, float]:
    """The best of what propagation, in narrow tables, and pair moves find."""
    if table.dim <= _NARROW:
        other = table.descend(row[None], table.propagate(row, noise)[None])
        both = np.stack([codes, other[0]])
        codes = both[table.residuals(np.stack([row, row]), both).argmin()]
    if table.residuals(row[None], codes[None])[0] > tolerance:
        codes = table.descend_pairs(row, codes)
    return codes, float(table.residuals(row[None], codes[None])[0])
