"""Who owns a run's folder, and how others know that it lives."""
