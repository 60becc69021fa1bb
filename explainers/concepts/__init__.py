"""What parts of a layer's value stand for: channels, heads, tokens, directions."""
