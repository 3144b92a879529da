"""Which laws take turns.

The parts that everything is made of, and the three optimizers that everybody knows, take every law in every run.
Without ``slow`` tests the others take a third of the laws, and each of three neighbours in the table takes another
third; with them they take all.
"""

import pytest

from tests.laws.rows import first_parts
from tests.laws.table import RECIPES, UNITS

TURNS = 3
EVERY_TIME = [unit for unit in first_parts.ROWS if unit not in RECIPES or unit.name in ("sgd", "adam", "adamw")]


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    laws = {}
    for item in items:
        unit = getattr(item, "callspec", None) and item.callspec.params.get("unit")
        if unit in UNITS and unit not in EVERY_TIME:
            law = laws.setdefault(item.originalname, len(laws))
            if (law + UNITS.index(unit)) % TURNS:
                item.add_marker(pytest.mark.slow)
