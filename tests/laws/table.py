"""Every unit of the library, one row each. Adding a unit means adding one row; the laws in this folder do the rest."""

from tests.laws.rows import (
    adaptive_rates,
    combined,
    escaping,
    first_parts,
    gradient_descent,
    regularization,
    schedules,
    watching,
)

UNITS = (
    *first_parts.ROWS,
    *gradient_descent.ROWS,
    *adaptive_rates.ROWS,
    *regularization.ROWS,
    *schedules.ROWS,
    *combined.ROWS,
    *watching.ROWS,
    *escaping.ROWS,
)

RECIPES = tuple(unit for unit in UNITS if unit.constructor.__module__.startswith("gradtx.optimizers."))
