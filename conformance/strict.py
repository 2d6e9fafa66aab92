"""What goldens, suites and results may be: small files.

Whatever one holds, reading it takes no more memory than four times its size and 64 MiB. ``refoptim.formats.strict``
reads; here are the limits.
"""

from __future__ import annotations

from functools import partial

from refoptim.formats import strict
from refoptim.formats.strict import WORD as WORD
from refoptim.formats.strict import Layout as Layout
from refoptim.formats.strict import Limits
from refoptim.formats.strict import check_size as check_size
from refoptim.formats.strict import is_count as is_count
from refoptim.formats.strict import is_float as is_float
from refoptim.formats.strict import read_bytes as read_bytes
from refoptim.formats.strict import require as require
from refoptim.formats.strict import shown as shown
from refoptim.numerics.arith import COMPLEX, FLOATS

GOLDEN = Limits(
    size=1 << 28,
    json=1 << 26,
    header=1 << 20,
    arrays=4096,
    entries=200_000,  # the numbers of a golden stand in long strings
    digits=20,
    dtypes=(*FLOATS, *COMPLEX, "int64", "uint8"),
)

MAX_BYTES, MAX_TEXT, MAX_HEADER, MAX_TENSORS = GOLDEN.size, GOLDEN.json, GOLDEN.header, GOLDEN.arrays

GoldenError = strict.FormatError
"""What a file is refused with that is no golden, or not as it was recorded."""

layout = partial(strict.layout, limits=GOLDEN)
read_json = partial(strict.read_json, limits=GOLDEN)
read_object = partial(strict.read_object, limits=GOLDEN)
parse = partial(strict.parse, limits=GOLDEN)
