"""The paper's grid, and any other: suites of runs, and what runs them."""
