"""What becomes of the outputs when weights of a layer are set: exactly, from cached values."""

from explainers.causal.interventions.exact import Interventions
from explainers.causal.interventions.outcomes import Outcome

__all__ = ["Interventions", "Outcome"]
