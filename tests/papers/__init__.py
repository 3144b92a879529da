"""Units held against their papers: slow oracles in float64, and the tests that use them."""
