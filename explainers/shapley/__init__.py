"""Estimators of Shapley values: which coalitions are looked at, and what is made of them."""
