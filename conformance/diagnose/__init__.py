"""A name for the mistake in an implementation: what would have to be otherwise in the rule for its numbers to come out."""
