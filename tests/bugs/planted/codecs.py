"""Mistakes in what is converted while it is copied."""

from planted.bug import Bug

_LOOPS = "csrc/copy/quantize_loops.h"
_FLOATS = "csrc/copy/floats.h"

BUGS = [
    Bug(
        name="codecs-fp8-rounds-down",
        why="codes are cut, not rounded",
        files=_FLOATS,
        find="(magnitude + 0x7FFFF + (magnitude >> 20 & 1) - 0x3C000000) >> 20",
        replace="(magnitude - 0x3C000000) >> 20",
        tests="test_codecs.py::test_values_come_back_as_near_as_is_said",
    ),
    Bug(
        name="codecs-nan-scales-a-group",
        why="one NaN or infinity takes the others of its group with it",
        files=_LOOPS,
        find="signed_of(magnitude) < 0x7F800000 ? magnitude : Words{}",
        replace="magnitude",
        tests="test_codecs.py",
    ),
    Bug(
        name="codecs-the-rest-is-left-out",
        why="values behind the last whole vector are not converted",
        files=_LOOPS,
        find="  if (at < count) function(at, count - at);\n",
        replace="",
        tests="test_codec_paths.py::test_all_ways_give_the_same_bits",
    ),
    Bug(
        name="codecs-ties-go-up",
        why="a value in the middle of two codes becomes the larger one",
        files=_FLOATS,
        find="(magnitude >> 20 & 1)",
        replace="1",
        tests="test_codec_paths.py::test_every_value_becomes_the_nearest_code",
    ),
    Bug(
        name="codecs-wide-vectors-saturate",
        why="AVX2 packs what has more than 8 bits to the largest number",
        files=_FLOATS,
        find="halves_of(words & 0xFF)",
        replace="halves_of(words)",
        tests="test_codec_paths.py::test_all_ways_give_the_same_bits",
    ),
]
