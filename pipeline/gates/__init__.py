"""Gates: what the scores of a run have to be, and by how much those of the next may be worse."""
