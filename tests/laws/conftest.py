"""Which laws take turns.

A part takes every law in every run. A recipe is a chain of parts: without ``slow`` tests it takes a third of the laws,
and each of three neighbours in the table takes another third; with them it takes all.
"""

import pytest

from tests.laws.table import RECIPES

TURNS = 3
EVERY_TIME = ("sgd", "adam", "adamw")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    laws = {}
    for item in items:
        unit = getattr(item, "callspec", None) and item.callspec.params.get("unit")
        if unit in RECIPES and unit.name not in EVERY_TIME:
            law = laws.setdefault(item.originalname, len(laws))
            if (law + RECIPES.index(unit)) % TURNS:
                item.add_marker(pytest.mark.slow)
