"""What a number is and does here: the words of arithmetic, the order of sums, the types of arrays.

It knows no optimizer. A change here changes bits everywhere, and its twin in ``kernels/``.
"""
