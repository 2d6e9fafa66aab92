"""A name for the mistake in an implementation: what its rule would have to be for its numbers to come out."""
