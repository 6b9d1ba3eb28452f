"""Parts of tools/experiments/results.py: suites of runs, their journal and tables. Standard library
only.
"""
