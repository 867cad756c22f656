"""In csrc/bindings: what callers get wrong is told, and views stay good."""

from planted.bug import Bug

_FILES = "csrc/bindings/*"
_ARGUMENTS = "test_prefix_cache_arguments.py"
_RESERVATIONS = "test_reservations.py"

BUGS = [
    Bug(
        name="arguments-hashes-of-any-width",
        why="rows that are not 16 bytes wide are read as if they were",
        files=_FILES,
        find="view.ndim != 2 || view.shape[1] != sizeof(BlockHash) ||",
        replace="view.ndim != 2 ||",
        tests=f"{_ARGUMENTS} -k bad_hashes",
    ),
    Bug(
        name="arguments-hashes-of-any-type",
        why="signed bytes, or bools, pass for hashes",
        files=_FILES,
        find="view.itemsize != 1 ||\n      !format.ends_with('B')) {",
        replace="view.itemsize != 1) {",
        tests=f"{_ARGUMENTS} -k bad_hashes",
    ),
    Bug(
        name="arguments-strided-hashes",
        why="arrays that do not lie in one piece are read as if they did",
        files=_FILES,
        find="PyBUF_C_CONTIGUOUS | PyBUF_FORMAT",
        replace="PyBUF_STRIDES | PyBUF_FORMAT",
        tests=f"{_ARGUMENTS} -k bad_hashes",
    ),
    Bug(
        name="arguments-bools-are-numbers",
        why="True passes for 1",
        files=_FILES,
        find="if (PyBool_Check(object.ptr()) || !PyIndex_Check(object.ptr())) throw",
        replace="if (!PyIndex_Check(object.ptr())) throw",
        tests=f"{_ARGUMENTS} -k bad_num_blocks",
    ),
    Bug(
        name="arguments-integers-wrap",
        why="a number beyond 64 bits passes for another",
        files=_FILES,
        find="if (overflow != 0 || value < low || value > high) throw",
        replace="if (value > high) throw",
        tests=f"{_ARGUMENTS} -k 'bad_num_blocks or bad_commits or bad_output'",
    ),
    Bug(
        name="arguments-none-is-a-request",
        why="finish takes None for a request",
        files=_FILES,
        find="if (py::isinstance<RequestInfo>(object)) return",
        replace="if (object.is_none() || py::isinstance<RequestInfo>(object)) return",
        tests=f"{_ARGUMENTS} -k finish_needs",
    ),
    Bug(
        name="handles-views-do-not-keep-alive",
        why="the ids of a lease are read after it has died",
        files=_FILES,
        find="            const auto& ids = self.cast<const Lease&>().block_ids();\n"
        "            return borrowed_array<uint32_t>(ids.data(), ids.size(), self);",
        replace="            const auto& ids = self.cast<const Lease&>().block_ids();\n"
        "            return borrowed_array<uint32_t>(ids.data(), ids.size(), py::none());",
        tests="test_block_lifetimes.py -k 'an_array_holds or stay_valid'",
    ),
    Bug(
        name="handles-with-block-commits",
        why="the end of a with block leaves a reservation open",
        files=_FILES,
        find="[](Reservation& self, const py::args&) { self.abort(); })",
        replace="[](Reservation&, const py::args&) {})",
        tests=f"{_RESERVATIONS} -k with_block",
    ),
    Bug(
        name="handles-states-are-shifted",
        why="BYPASSED and IN_FLIGHT are told for each other",
        files=_FILES,
        find='.value("IN_FLIGHT", BlockState::kInFlight)\n'
        '      .value("BYPASSED", BlockState::kBypassed)',
        replace='.value("IN_FLIGHT", BlockState::kBypassed)\n'
        '      .value("BYPASSED", BlockState::kInFlight)',
        tests=f"{_RESERVATIONS} -k int_enum",
    ),
    Bug(
        name="handles-abort-is-not-told",
        why="who commits after an abort is told of a wrong number",
        files=_FILES,
        find="if (!reservation.is_open()) {",
        replace="if (false) {",
        tests=f"{_RESERVATIONS} -k committing_after",
    ),
    Bug(
        name="waiting-lets-python-unwind",
        why="a daemon thread that comes back while Python ends takes the process with it",
        files="csrc/bindings/waiting.h",
        find="""    try {
      PyEval_RestoreThread(state_);
    } catch (...) {  // the unwinding
      for (;;) pause();
    }
""",
        replace="    PyEval_RestoreThread(state_);\n",
        tests="test_copy.py -k daemon",
    ),
]
