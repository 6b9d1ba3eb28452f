"""Parts of tools/results.py: suites of runs, their journal, statistics and tables. Standard library only."""
