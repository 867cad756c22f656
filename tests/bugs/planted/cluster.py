"""Mistakes in who the servers of a cluster are, and in what they get back."""

from planted.bug import Bug

_REMOTE = "csrc/store/remote/*.[ch]*"
_MEMBERS = "test_cluster.py::"

BUGS = [
    Bug(
        name="cluster-a-copy-that-nobody-asks-for-first-is-not-refilled",
        why="what is used between two restarts is lost with the second",
        files="csrc/store/remote/remote_walk.cpp",
        find="servers.subspan(cursor.server + 1)",
        replace="servers.first(0)",
        tests="test_replicas.py::test_replicas_answer_for_a_dead_server_and_give_back_what_it_lost",
    ),
    Bug(
        name="cluster-the-loss-of-another-copy-is-not-noticed",
        why="who knows where a chunk is never learns that it has one copy left",
        files="csrc/store/remote/remote_context.h",
        find="if (std::ranges::any_of(of_name, may_have_lost)) return std::nullopt;",
        replace="if (may_have_lost(chunk->server)) return std::nullopt;",
        tests="test_replicas.py::test_what_is_used_after_a_restart_survives_the_next",
    ),
    Bug(
        name="cluster-a-new-address-is-ignored",
        why="a pod that was moved is looked for where it was",
        files="csrc/store/remote/remote_store.cpp",
        find="known != rest.end() && known->second.address == server.address;",
        replace="known != rest.end();",
        tests='cpp "a server that has another address*"',
    ),
    Bug(
        name="cluster-waiting-counts-as-writing",
        why="what many values wait for each other is taken for a slow server, and most is left out",
        files="csrc/store/remote/remote_context.h",
        find="now - std::max(since, last_write);",
        replace="now - since;",
        tests="test_infinistore.py::test_values_that_wait_together_are_not_taken_for_slow_ones",
    ),
    Bug(
        name="cluster-fingerprint64-places-keys",
        why="keys are on other servers than AIBrix would put them on",
        files="third_party/farmhash/farmhash64.h",
        find="  if (len <= 96) return detail::HashLen65to96(s, len);\n",
        replace="",
        tests="test_aibrix.py::test_slots_are_those_of_aibrix",
    ),
    Bug(
        name="cluster-a-range-goes-round-and-leaves-the-rest",
        why="a server whose slots AIBrix's watcher forgot is hardly used",
        files=_REMOTE,
        find="if (std::ranges::count_if(ranges, goes_round) == 1) {",
        replace="if (false) {",
        tests='cpp "a range that goes round*"',
    ),
    Bug(
        name="cluster-two-copies-on-one-server",
        why="a server that dies takes both",
        files=_REMOTE,
        find="if (std::ranges::find(placed, server) == placed.end()) servers[count++] = server;",
        replace="servers[count++] = server;",
        tests='cpp "copies are on the servers that come next*"',
    ),
    Bug(
        name="cluster-a-closed-watcher-still-tells",
        why="a store that was given other servers gets back those that it had",
        files="kvcore/cluster/watcher.py",
        find="if apply is None or self.stopped.is_set():",
        replace="if apply is None:",
        tests=_MEMBERS + "test_a_watcher_closes_while_it_resolves",
    ),
    Bug(
        name="cluster-all-is-told-every-time",
        why="connections are looked through every few seconds for nothing",
        files="kvcore/cluster/watcher.py",
        find="if members != self.members:",
        replace="if True:",
        tests=_MEMBERS + "test_a_watcher_tells_changes_alone_and_keeps_the_last_good_list",
    ),
]
