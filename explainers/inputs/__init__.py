"""How a model takes its inputs, which of them are explained, and values for other rows of them."""
