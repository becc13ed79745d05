"""Reproducing the paper's tables: a plan of runs and evaluations, its cost, its execution."""
