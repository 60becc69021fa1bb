"""What a plan is made of: what fits, what it takes, and what only shows when it is tried."""
