"""Other libraries' objects, taken as they are."""
