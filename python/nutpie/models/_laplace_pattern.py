"""Where a Hessian has entries, found by products with vectors alone, and how few products tell them all.

The Hessian of n latent variables is never computed as a whole unless n is small. Products with the sums of random
groups of unit vectors, weighted by codes of their numbers, tell which column a lone entry of a row belongs to; what is
known is subtracted, and with more groups the rest shows up (peeling, as in sparse recovery). Products with random
vectors say whether anything is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nutpie import _lib

__all__ = ["Kind", "Pattern", "find_entries", "fits", "make_pattern", "union", "wider"]

#: From a matrix of vectors (m, n) to their products with the Hessian, (m, n).
Product = Callable[[np.ndarray], np.ndarray]

Kind = Literal["diagonal", "blocks", "banded", "sparse", "dense"]

#: Up to so many latent variables the Hessian is computed as a whole to find its pattern.
WHOLE = 200

#: Numbers of groups to try. A row of about a third as many entries can be told.
GROUPS = (2, 8, 16, 32, 64, 128, 256)

#: With this many entries for each group hardly any is alone in its group.
HIDDEN = 8

#: Entries below this multiple of the largest of their row are not looked for, and nothing above it may be missed.
SMALLEST = 1e-10
MISSED = 1e-8

#: How far a code that was read may lie from the true one, by rounding relative to the largest entry of the row.
ROUNDING = 1e-11

#: Largest block of a block-diagonal Hessian that is factorised in compiled loops over all blocks at once.
LARGEST_BLOCK = 6

#: Most latent variables with a dense Hessian: a matrix of this size takes 128 MiB and a second for its inverse.
MOST_DENSE = 4096

#: A Hessian whose factor has more than this share of the entries of a dense one is treated as dense.
FULL = 0.3

#: Widest band that is not permuted.
WIDEST_BAND = 64


@dataclass(frozen=True)
class Pattern:
    """Where a symmetric matrix has entries, and how they are read off products with a few vectors.

    Parameters
    ----------
    kind
        Which algebra suits it.
    size
        Number of rows.
    rows, cols
        Entries of the lower triangle, all of the diagonal among them.
    colors
        A colour for each column: the product with the sum of the unit vectors of a colour is one vector.
    read_colors, read_rows
        In the product of which colour, and in which of its rows, each entry is found alone.
    blocks
        For ``"blocks"``, the rows of each block, of shape (blocks, largest), filled up with ``size``.
    detail
        What a user is told of it.
    """

    kind: Kind
    size: int
    rows: np.ndarray
    cols: np.ndarray
    colors: np.ndarray
    read_colors: np.ndarray
    read_rows: np.ndarray
    blocks: np.ndarray | None = None
    detail: str = ""

    @property
    def n_colors(self) -> int:
        """Number of products."""
        return int(self.colors.max(initial=-1)) + 1

    def vectors(self) -> np.ndarray:
        """Return the vectors to multiply, of shape (n_colors, size)."""
        found = np.zeros((self.n_colors, self.size))
        found[self.colors, np.arange(self.size)] = 1.0
        return found

    def describe(self) -> str:
        """Name it in a few words."""
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


def find_entries(product: Product, size: int, rng: np.random.Generator) -> Any | None:
    """Find the entries of a symmetric matrix.

    Parameters
    ----------
    product
        Multiplies it with vectors.
    size
        Number of rows.
    rng
        Source of the groups and of the vectors that check the result.

    Returns
    -------
    scipy.sparse.csr_matrix or None
        The matrix, with all entries that are not small in comparison with others of their row; None if it has too many
        to be found like this.
    """
    import scipy.sparse as sp

    if size <= WHOLE:
        whole = np.asarray(product(np.eye(size)))
        scale = np.abs(whole).max(axis=1, initial=0.0)
        small = np.abs(whole) <= SMALLEST * np.minimum(scale[:, None], scale[None, :])
        return sp.csr_matrix(np.where(small, 0.0, whole))
    found = sp.csr_matrix((size, size))
    check = rng.normal(size=(2, size))
    checked = np.asarray(product(check))
    for groups in GROUPS:
        for _ in range(3):
            before = found.nnz
            found = found + _peel(product, found, size, groups, rng)
            missed = np.abs(checked - (found @ check.T).T)
            if (missed <= MISSED * np.abs(checked).max(axis=0)).all():
                return found
            if found.nnz == before and HIDDEN * groups >= FULL * size:
                # No entry is alone: rows have so many that the matrix counts as dense.
                return None
            if found.nnz <= 1.02 * before:
                break
    return None


def _peel(product: Product, known: Any, size: int, groups: int, rng: np.random.Generator) -> Any:
    """Find entries that are alone in their group, next to those known already."""
    import scipy.sparse as sp

    group = rng.integers(groups, size=size)
    number = np.arange(1.0, size + 1)
    codes = np.stack([rng.choice([-1.0, 1.0], size), number, rng.uniform(1.0, 2.0, size)])
    codes[1:] *= codes[0]
    vectors = np.zeros((3, groups, size))
    for code in range(3):
        vectors[code, group, np.arange(size)] = codes[code]
    flat = vectors.reshape(3 * groups, size)
    products = np.asarray(product(flat))
    scale = np.abs(products[:groups]).max(axis=0)
    plain, numbered, checked = (products - (known @ flat.T).T).reshape(3, groups, size)
    at_group, rows = np.nonzero(np.abs(plain) > SMALLEST * np.maximum(scale, np.finfo(float).tiny))
    plain, numbered, checked = (part[at_group, rows] for part in (plain, numbered, checked))
    tolerance = np.minimum(ROUNDING * (10.0 + scale[rows] / np.abs(plain)), 1e-3)
    with np.errstate(all="ignore"):
        guess = numbered / plain
        cols = np.clip(np.nan_to_num(np.rint(guess) - 1), 0, size - 1).astype(np.int64)
        alone = np.abs(guess - number[cols]) <= tolerance * size
        alone &= np.abs(checked / plain - codes[2, cols] / codes[0, cols]) <= tolerance
    alone &= group[cols] == at_group
    rows, cols, values = rows[alone], cols[alone], plain[alone] / codes[0, cols[alone]]
    # What was found in one triangle is known in the other.
    pairs = np.concatenate([rows * size + cols, cols * size + rows])
    pairs, first = np.unique(pairs, return_index=True)
    values = np.concatenate([values, values])[first]
    at = known.tocoo()
    new = ~np.isin(pairs, at.row.astype(np.int64) * size + at.col)
    return sp.csr_matrix((values[new], (pairs[new] // size, pairs[new] % size)), shape=(size, size))


def fits(product: Product, pattern: Pattern, rng: np.random.Generator) -> bool:
    """Whether a matrix has no entries but those of a pattern."""
    import scipy.sparse as sp

    values = np.asarray(product(pattern.vectors()))[pattern.read_colors, pattern.read_rows]
    lower = sp.csr_matrix((values, (pattern.rows, pattern.cols)), shape=(pattern.size, pattern.size))
    matrix = lower + sp.tril(lower, -1).T
    probes = rng.normal(size=(2, pattern.size))
    truth = np.asarray(product(probes))
    return bool((np.abs(truth - (matrix @ probes.T).T) <= MISSED * np.abs(truth).max(axis=0)).all())


def make_pattern(entries: Any | None, size: int, kind: Kind | None = None) -> Pattern:
    """Choose algebra and colours for a matrix with these entries.

    Parameters
    ----------
    entries
        A sparse matrix, of which it matters where it has entries; None if it is not known.
    size
        Number of rows.
    kind
        Treat it as this kind, if that is possible.

    Raises
    ------
    ValueError
        If it is too large to be treated as dense but cannot be treated otherwise, or not as ``kind``.
    """
    if kind == "dense" or entries is None:
        return _dense(size)
    lower = _lower_triangle(entries, size)
    rows, cols = lower
    off = rows != cols
    if not off.any() and kind in (None, "diagonal"):
        every = np.arange(size)
        return Pattern("diagonal", size, every, every, np.zeros(size, np.int64), np.zeros(size, np.int64), every)
    if kind == "diagonal":
        raise ValueError("the Hessian of the latent variables is not diagonal")
    if kind in (None, "blocks"):
        found = _blocks(size, rows, cols)
        if found is not None and (kind == "blocks" or size > 16):
            return found
        if kind == "blocks":
            raise ValueError(f"the Hessian of the latent variables has no blocks of up to {LARGEST_BLOCK} of them")
    return _sparse(size, rows, cols, kind)


def _lower_triangle(entries: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the lower triangle of a symmetric pattern, with the diagonal."""
    coo = entries.tocoo()
    present = coo.data != 0
    rows, cols = coo.row[present].astype(np.int64), coo.col[present].astype(np.int64)
    every = np.arange(size)
    pairs = np.unique(np.concatenate([np.maximum(rows, cols) * size + np.minimum(rows, cols), every * size + every]))
    return pairs // size, pairs % size


def _dense(size: int) -> Pattern:
    if size > MOST_DENSE:
        gigabytes = 8 * size**2 / 2**30
        raise ValueError(
            f"the Hessian of {size} latent variables has no structure that could be found, and a dense one takes "
            f"{gigabytes:.1f} GiB: leave fewer latent, or sample them all"
        )
    rows, cols = np.tril_indices(size)
    return Pattern("dense", size, rows, cols, np.arange(size), cols, rows)


def _blocks(size: int, rows: np.ndarray, cols: np.ndarray) -> Pattern | None:
    """Rows that are coupled with each other alone, if there are only few in each block."""
    import scipy.sparse as sp

    graph = sp.csr_matrix((np.ones(len(rows)), (rows, cols)), shape=(size, size))
    count, label = sp.csgraph.connected_components(graph, directed=False)
    sizes = np.bincount(label, minlength=count)
    largest = int(sizes.max(initial=0))
    if largest > LARGEST_BLOCK or count * largest > 3 * size:
        return None
    order = np.argsort(label, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    place = np.empty(size, np.int64)
    place[order] = np.arange(size) - starts[label[order]]
    blocks = np.full((count, largest), size)
    blocks[label, place] = np.arange(size)
    i, j = np.tril_indices(largest)
    every_row, every_col = blocks[:, i].ravel(), blocks[:, j].ravel()
    real = (every_row < size) & (every_col < size)
    every_row, every_col = every_row[real], every_col[real]
    detail = f"{count} of up to {largest}"
    return Pattern("blocks", size, every_row, every_col, place, place[every_col], every_row, blocks, detail)


def _sparse(size: int, rows: np.ndarray, cols: np.ndarray, kind: Kind | None) -> Pattern:
    """Banded in the order that it has, or sparse in a better one, unless the factor is as good as full."""
    permuted = _lib.SparseCholesky(size, rows, cols, True).factor_entries
    width = int((rows - cols).max(initial=0))
    full = size * (size + 1) / 2
    if kind is None and size <= MOST_DENSE and (size <= 16 or permuted > FULL * full):
        return _dense(size)
    banded = width <= WIDEST_BAND and _lib.SparseCholesky(size, rows, cols, False).factor_entries <= 2 * permuted
    if kind == "banded" and not banded:
        raise ValueError("the Hessian of the latent variables is not banded")
    chosen: Kind = "banded" if banded and kind != "sparse" else "sparse"
    detail = f"bandwidth {width}" if chosen == "banded" else f"{permuted / size:.3g} entries a row of the factor"
    colors, read_colors, read_rows = _colors(size, rows, cols)
    return Pattern(chosen, size, rows, cols, colors, read_colors, read_rows, None, detail)


def _colors(size: int, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours of the columns, and where each entry is read."""
    import scipy.sparse as sp

    off = rows != cols
    degree = np.bincount(rows[off], minlength=size) + np.bincount(cols[off], minlength=size)
    # Variables that are coupled with very many others get a colour each, and are out of the way of the others.
    hub = degree > max(32.0, 8 * degree.mean())
    rest = off & ~hub[rows] & ~hub[cols]
    ends = np.concatenate([rows[rest], cols[rest]]), np.concatenate([cols[rest], rows[rest]])
    graph = sp.csr_matrix((np.ones(2 * rest.sum()), ends), shape=(size, size))
    colors = _lib.star_coloring(graph.indptr.astype(np.int64), graph.indices.astype(np.int64))
    colors[hub] = -1
    _, colors[~hub] = np.unique(colors[~hub], return_inverse=True)
    colors[hub] = colors.max(initial=-1) + 1 + np.arange(hub.sum())
    return colors, *_reading(rows, cols, colors, hub, ends)


def _reading(
    rows: np.ndarray, cols: np.ndarray, colors: np.ndarray, hub: np.ndarray, ends: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """For each entry a colour and a row such that no other entry of the row has that colour."""
    n_colors = int(colors.max()) + 1
    # Which (row, colour) hold a single neighbour.
    keys, counts = np.unique(ends[0] * n_colors + colors[ends[1]], return_counts=True)
    single = keys[counts == 1]
    by_column = np.isin(rows * n_colors + colors[cols], single) | hub[cols] | (rows == cols)
    by_column &= ~(hub[rows] & (rows != cols)) | hub[cols]
    return np.where(by_column, colors[cols], colors[rows]), np.where(by_column, rows, cols)


def wider(pattern: Pattern) -> Any:
    """Return a matrix with entries where a band of twice the width has some.

    Where entries fall off with the distance from the diagonal, which are too small to matter depends on the point, and
    a band that was too narrow once will be again.
    """
    import scipy.sparse as sp

    width = min(2 * int((pattern.rows - pattern.cols).max(initial=0)), pattern.size - 1)
    offsets = range(-width, width + 1)
    shape = (pattern.size, pattern.size)
    return sp.diags([np.ones(pattern.size - abs(i)) for i in offsets], list(offsets), shape=shape, format="csr")


def union(matrices: Sequence[Any]) -> Any:
    """Return a matrix with an entry wherever one of some has one."""
    total = abs(matrices[0])
    for matrix in matrices[1:]:
        total = total + abs(matrix)
    return total
