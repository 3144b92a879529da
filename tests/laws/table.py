"""Every unit of the library, one row each. Adding a unit means adding one row; the laws in this folder do the rest."""

import pytest

from tests.laws.rows import (
    adaptive_rates,
    catalogue_adaptive,
    combined,
    constraints,
    escaping,
    first_parts,
    gradient_descent,
    guards,
    learning_rate_free,
    modifiers,
    monitoring,
    orthogonal,
    privacy,
    proven,
    regularization,
    schedules,
    second_order,
    watching,
)

UNITS = (
    *first_parts.ROWS,
    *gradient_descent.ROWS,
    *adaptive_rates.ROWS,
    *catalogue_adaptive.ROWS,
    *regularization.ROWS,
    *schedules.ROWS,
    *combined.ROWS,
    *watching.ROWS,
    *proven.ROWS,
    *modifiers.ROWS,
    *escaping.ROWS,
    *second_order.ROWS,
    *learning_rate_free.ROWS,
    *orthogonal.ROWS,
    *guards.ROWS,
    *constraints.ROWS,
    *privacy.ROWS,
    *monitoring.ROWS,
)

RECIPES = tuple(unit for unit in UNITS if unit.constructor.__module__.startswith("gradtx.optimizers."))

every_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
