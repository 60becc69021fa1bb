"""Causal graphs of a network, learned by interventions on its weights over a data set."""
