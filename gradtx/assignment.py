"""Who does what: pairs of rows and columns of least cost."""

import jax
import jax.numpy as jnp

from gradtx.errors import DtypeError, ShapeError


def hungarian_algorithm(cost_matrix: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The pairs ``(i, j)`` of ``min(n, m)`` rows and columns, none of them twice, with the least sum of costs::

        minimize sum_k C[i_k, j_k]

    By shortest augmenting paths: one row after the other is given the column that it can have at the least rise of the
    cost, where rows before it may change theirs. ``O(n^2 m)`` for ``n <= m``, one row of the matrix in a step of a
    loop. It can be jitted and mapped over, and has no derivative (that of ``cost_matrix[i, j].sum()`` is 1 for each
    pair).

    Args:
        cost_matrix: C, real, ``[n, m]``. A cost of inf or NaN forbids a pair; if no assignment does without, one with
            them is found. It is computed in float32 or wider.

    Returns:
        ``i`` and ``j``, int32 of length ``min(n, m)``, by rising row.

    Source: Kuhn 1955, Naval Research Logistics Quarterly 2, "The Hungarian method for the assignment problem"; Jonker
    and Volgenant 1987, Computing 38, section "augmentation", for shortest paths.

    Raises:
        ShapeError: No matrix.
        DtypeError: A matrix of complex numbers or truth values.

    >>> import jax.numpy as jnp
    >>> from gradtx import assignment
    >>> cost = jnp.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])
    >>> i, j = assignment.hungarian_algorithm(cost)
    >>> i.tolist(), j.tolist(), float(cost[i, j].sum())
    ([0, 1, 2], [1, 0, 2], 5.0)
    """
    cost = jnp.asarray(cost_matrix)
    if cost.ndim != 2:
        raise ShapeError(
            "hungarian_algorithm(cost_matrix)", expected="a matrix of costs, [rows, columns]", got=cost.shape,
            cause="several matrices were given, or one row", fix="write jax.vmap(hungarian_algorithm)(costs)",
        )  # fmt: skip
    if not jnp.issubdtype(cost.dtype, jnp.number) or jnp.iscomplexobj(cost):
        raise DtypeError(
            "hungarian_algorithm(cost_matrix)", expected="real costs", got=cost.dtype,
            cause="costs have to have an order", fix="write jnp.abs(cost)",
        )  # fmt: skip
    cost = jax.lax.stop_gradient(cost).astype(jnp.promote_types(cost.dtype, jnp.float32))
    largest = jnp.max(jnp.where(jnp.isfinite(cost), jnp.abs(cost), 0), initial=0)
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, 1))
    half = -exponent // 2  # in two steps: 2^-128 is no normal number
    scaled = jnp.ldexp(jnp.ldexp(cost, half), -exponent - half)
    # All are at most 1, so a forbidden pair costs more than any assignment without one.
    forbidden = jnp.where(jnp.isneginf(cost), -1, 1) * (2.0 + 4 * min(cost.shape))
    scaled = jnp.where(jnp.isfinite(cost), scaled, forbidden)
    if not cost.size:
        return jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32)
    if cost.shape[0] <= cost.shape[1]:
        return jnp.arange(cost.shape[0], dtype=jnp.int32), _columns_of_rows(scaled)
    rows = _columns_of_rows(scaled.T)
    order = jnp.argsort(rows)
    return rows[order], order.astype(jnp.int32)


def _columns_of_rows(cost: jax.Array) -> jax.Array:
    """The column of each row, for no more rows than columns."""
    n, m = cost.shape
    nobody = jnp.int32(n)

    def add_row(row, state):
        """Dijkstra's algorithm from the row to the nearest column that nobody has, with reduced costs as lengths."""
        owner, row_price, column_price = state

        def is_taken(search):
            *_, column = search
            return owner[column] != nobody

        def go_on(search):
            distance, before, is_settled, column = search
            at = jnp.where(column < 0, row, owner[column])
            start = jnp.where(column < 0, 0.0, distance[column])
            through = start + (cost[at] - row_price[at] - column_price)
            is_nearer = ~is_settled & (through < distance)
            distance = jnp.where(is_nearer, through, distance)
            before = jnp.where(is_nearer, column, before)
            column = jnp.argmin(jnp.where(is_settled, jnp.inf, distance)).astype(jnp.int32)
            return distance, before, is_settled.at[column].set(True), column

        def flip(search):
            owner, column = search
            previous = before[column]
            new = jnp.where(previous < 0, row, owner[previous])
            return owner.at[column].set(new), previous

        first = (jnp.full(m, jnp.inf, cost.dtype), jnp.full(m, -1, jnp.int32), jnp.zeros(m, bool), jnp.int32(-1))
        distance, before, is_settled, column = jax.lax.while_loop(is_taken, go_on, go_on(first))
        rise = jnp.where(is_settled, distance[column] - distance, 0.0)
        column_price = column_price - rise
        # Of the rows on the way; those of columns that nobody has go to a place behind the rows.
        row_price = jnp.append(row_price, 0.0).at[owner].add(rise)[:n].at[row].add(distance[column])
        owner, _ = jax.lax.while_loop(lambda search: search[1] >= 0, flip, (owner, column))
        return owner, row_price, column_price

    start = jnp.full(m, nobody), jnp.zeros(n, cost.dtype), jnp.zeros(m, cost.dtype)
    owner, _, _ = jax.lax.fori_loop(0, n, lambda row, state: add_row(jnp.int32(row), state), start)
    return jnp.zeros(n + 1, jnp.int32).at[owner].set(jnp.arange(m, dtype=jnp.int32))[:n]
