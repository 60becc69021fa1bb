"""Values of coalitions of features: what methods that perturb the input have in common."""
