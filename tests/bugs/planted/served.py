"""Mistakes in stores that are written in Python."""

from planted.bug import Bug

_LANES = "kvcore/stores/lanes.py"
_REDIS = "kvcore/stores/redis*.py"
_SOURCE = "csrc/bindings/bind_batch_source.cpp"
_SHARING = "test_redis.py::"
_FAULTS = "test_redis_faults.py::"
_PIECES = "test_lanes.py::"

BUGS = [
    Bug(
        name="served-memory-is-not-kept",
        why="a view of a block outlives the slab",
        files=_SOURCE,
        find="static_cast<py::ssize_t>(memory.size()), data, self.owner()));",
        replace="static_cast<py::ssize_t>(memory.size()), data, py::none()));",
        tests=_PIECES + "test_memory_of_a_batch_is_the_slabs",
    ),
    Bug(
        name="served-a-lost-batch-is-waited-for",
        why="who waits for a batch that a store dropped waits for ever",
        files=_SOURCE,
        find="      batch_->let_go();\n    }\n  }",
        replace="    }\n  }",
        tests=_PIECES + "test_a_batch_that_is_lost_has_failed",
    ),
    Bug(
        name="served-values-are-not-verified",
        why="wrong bytes are handed out",
        files=_REDIS,
        find="found is True and part.source.verify(key, self._fingerprint, self._envelope):",
        replace="found is True:",
        tests=_SHARING + "test_wrong_bytes_are_never_handed_out",
    ),
    Bug(
        name="served-corrupt-values-stay",
        why="a corrupt value is found again and again, and never written anew",
        files=_REDIS,
        find="            self._ask(list(corrupt.values()))",
        replace="            pass",
        tests=_SHARING + "test_wrong_bytes_are_never_handed_out",
    ),
    Bug(
        name="served-no-room-is-a-failure",
        why="a full server looks like a broken one",
        files=_REDIS,
        find="Outcome.MISS if _is_full(answer) else Outcome.FAILED",
        replace="Outcome.FAILED",
        tests=_SHARING + "test_a_full_server_has_no_room",
    ),
    Bug(
        name="served-a-put-does-not-renew",
        why="a block that is in use leaves when its first time is over",
        files=_REDIS,
        find="        if self._ttl_ms is not None:\n            ours",
        replace="        if False:\n            ours",
        tests=_SHARING + "test_a_value_leaves_after_its_time",
    ),
    Bug(
        name="served-a-lost-server-is-asked-on",
        why="each call waits for a server that hangs",
        files=_LANES,
        find="admitted = num_keys if self._is_well and not self._is_closed else 0",
        replace="admitted = num_keys if not self._is_closed else 0",
        tests=_FAULTS + "test_a_dead_server_costs_nothing",
    ),
    Bug(
        name="served-idle-connections-are-failures",
        why="a server that ends idle connections is given up each time",
        files=_LANES,
        find="if was_idle and self._put_back(job):",
        replace="if was_idle and False:",
        tests=_FAULTS + "test_a_restart_between_two_calls_is_not_noticed",
    ),
    Bug(
        name="served-what-is-known-outlives-the-server",
        why="a server that was started again, empty, is said to have what it had",
        files=_LANES,
        find="* random.uniform(0.5, 1.0)\n            self._known.clear()",
        replace="* random.uniform(0.5, 1.0)",
        tests=_FAULTS + "test_a_frozen_server_costs_its_time_once",
    ),
    Bug(
        name="served-queue-has-no-end",
        why="a slow server fills the memory with what waits for it",
        files=_LANES,
        find="admitted = min(admitted, max(0, room // self._value_bytes))",
        replace="admitted = min(admitted, max(num_keys, room // self._value_bytes))",
        tests=_FAULTS + "test_writes_that_wait_are_bounded",
    ),
    Bug(
        name="served-closing-waits-for-the-server",
        why="a store cannot be closed while its server hangs",
        files=_LANES,
        find="            lane.abort()\n",
        replace="            pass\n",
        tests=_FAULTS + "test_outcomes_keep_their_deadline",
    ),
]
