"""What a step is, before anything runs it: hyperparameters, rules, parameters, groups, state, and the plan of a step.

Nothing here is particular to one optimizer or one engine.
"""
