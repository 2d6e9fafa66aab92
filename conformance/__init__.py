"""The conformance suite: cases as data, golden trajectories, and the witnesses they are recorded from."""
