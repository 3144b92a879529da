"""The rows of the law table, a module for each family of units."""
