"""One room per optimizer: everything that defines one is in the file of its name. ``base`` is what they share.

``repeat`` and ``swap`` serve every optimizer; ``closure``, ``line_search`` and ``vector`` those that call a closure.
"""
