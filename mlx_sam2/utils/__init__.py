"""What serves scripts that were written for the package ``sam2``: its names, and results that answer torch's calls.

The rooms below the predictors do not know of it. docs/differences.md says what holds and what stays different.
"""
