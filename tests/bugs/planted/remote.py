"""Mistakes in what talks to servers."""

from planted.bug import Bug

_WALK = "csrc/store/remote/remote_walk.cpp"
_SAVE = "csrc/store/remote/remote_save.cpp"
_SERVER = "csrc/store/remote/server_queue.cpp"
_CONNECTION = "csrc/store/remote/connection.cpp"
_SHARING = "test_infinistore.py::"
_HAZARDS = "test_infinistore_hazards.py::"
_REPLICAS = "test_replicas.py::"
_FUZZ = "cpp 'answers that a fuzzer made*'"

BUGS = [
    Bug(
        name="remote-checksum-is-not-looked-at",
        why="a byte that changed on the way is handed out",
        files=_WALK,
        find="if (reply.answer == Answer::kDone && reply.checksum == chunk.checksum) {",
        replace="if (reply.answer == Answer::kDone) {",
        tests=_HAZARDS + "test_wrong_bytes_are_corrupt_and_removed",
    ),
    Bug(
        name="remote-nobody-wanted-them-in-one-place",
        why="blocks of a chunk that a reader has already overwrite each other before the checksum",
        files=_WALK,
        find="context_.scratch.data() + (at - cursor->chunk.begin) * block_bytes",
        replace="context_.scratch.data()",
        tests=_SHARING + "test_a_chain_that_grew_is_found_whole",
    ),
    Bug(
        name="remote-late-requests-are-cut-off",
        why="a server that still owes an answer aborts when its client closes the connection",
        files=_SERVER,
        find="  Request request = place.line->abandon();\n",
        replace="  Request request = place.line->abandon();\n  place.line->close();\n",
        tests=_HAZARDS + "test_what_nobody_waits_for_any_more_is_read_to_its_end",
    ),
    Bug(
        name="remote-a-silent-server-is-waited-for",
        why="each call waits for its deadline",
        files=_SERVER,
        find="if (is_lost || now >= stalls_at()) {",
        replace="if (is_lost) {",
        tests=_HAZARDS + "test_a_server_that_stands_still_is_given_up_and_found_again",
    ),
    Bug(
        name="remote-acknowledgements-are-late",
        why="a small value takes 40 ms",
        files=_CONNECTION,
        find="  set(fd(), IPPROTO_TCP, TCP_QUICKACK, 1);",
        replace="",
        tests=_HAZARDS + "test_small_values_do_not_wait_for_acknowledgements",
    ),
    Bug(
        name="remote-behind-the-end-all-is-asked",
        why="a long prompt that is new costs a question a block",
        files=_WALK,
        find="if (cursor->at > missing_from_ && purpose_ != Purpose::kRemove) {",
        replace="if (false) {",
        tests=_SHARING + "test_behind_the_end_little_is_asked",
    ),
    Bug(
        name="remote-lost-chunks-stay-lost",
        why="a server that lost a chunk is never given it back",
        files=_WALK,
        find="      repair(*cursor);\n",
        replace="",
        tests=_REPLICAS + "test_replicas_answer_for_a_dead_server_and_give_back_what_it_lost",
    ),
    Bug(
        name="remote-queue-has-no-end",
        why="a slow server fills the memory with what waits for it",
        files="csrc/store/remote/remote_store.cpp",
        find="  return std::min<uint64_t>(num_keys, room / options_.block_bytes);",
        replace="  return num_keys + 0 * room;",
        tests=_SHARING + "test_what_does_not_fit_the_queue_is_left_out_at_the_end",
    ),
    Bug(
        name="remote-what-would-be-a-request-is-sent",
        why="a full server takes a value for requests",
        files="csrc/store/remote/wire.cpp",
        find="  return begin == kMagic;",
        replace="  return false;",
        tests='cpp "what a server would not survive*"',
    ),
    Bug(
        name="remote-servers-move-their-chunks",
        why="a server that comes changes the places of all",
        files="csrc/store/remote/rendezvous.cpp",
        find="const Entry& entry = entries_[i];",
        replace="const Entry& entry = entries_[(i + entries_.size()) % entries_.size()];\n"
        "    if (entries_.size() == 4) return static_cast<double>(mix(name.low() + i));",
        tests='cpp "a fourth server takes a quarter*"',
    ),
    Bug(
        name="remote-what-is-drained-is-not-looked-at",
        why="the next answer is looked for behind what was none",
        files=_CONNECTION,
        find="      if (!wire::is_answer(kind_, head_in_)) return close();\n",
        replace="",
        tests=_FUZZ,
    ),
    Bug(
        name="remote-bytes-behind-a-miss-are-swallowed",
        why="the next answer is looked for in the middle of something",
        files=_CONNECTION,
        find="if (!reply || has_surplus) return fail();",
        replace="if (!reply) return fail();",
        tests=_FUZZ,
    ),
    Bug(
        name="remote-an-answer-before-its-request-is-kept",
        why="the next answer is looked for behind the beginning of this one",
        files=_CONNECTION,
        find="if (sent_bytes_ == 0 && head_received_ == 0) {",
        replace="if (sent_bytes_ == 0) {",
        tests=_FUZZ,
    ),
    Bug(
        name="remote-pieces-get-what-is-for-the-next",
        why="what came in two parts is written one byte too early",
        files=_CONNECTION,
        find="places_.push_back({piece.data() + skipped, bytes});",
        replace="places_.push_back({piece.data() + skipped - (skipped > 0), bytes});",
        tests=_FUZZ,
    ),
    Bug(
        name="remote-an-answer-that-comes-early-is-believed",
        why="a value is taken for written that the server has not got",
        files=_CONNECTION,
        find="    if (!is_sent()) return fail();  // to a request that it had not\n",
        replace="",
        tests=_FUZZ,
    ),
    Bug(
        name="envelope-zeros-are-anything",
        why="what a later version says there is read as if it said nothing",
        files="csrc/store/envelope.cpp",
        find="fields.zeros == expected.zeros && fields.more_zeros == expected.more_zeros &&",
        replace="",
        tests="cpp 'envelopes that a fuzzer made*'",
    ),
    Bug(
        name="remote-a-drain-ends-at-its-turn",
        why="a connection that has read the last byte in the last turn waits for more",
        files=_CONNECTION,
        find="turns_left = kReceivesATurn;; --turns_left) {",
        replace="turns_left = kReceivesATurn; turns_left > 0; --turns_left) {",
        tests="cpp 'a connection that has drained all*'",
    ),
    Bug(
        name="remote-a-busy-server-is-late",
        why="a link that is full is filled again with what is asked of the next server",
        files=_WALK,
        find="if (!is_last) request.patience = context_.options.patience;",
        replace="if (!is_last) request.deadline = std::min(request.deadline, Clock::now() + "
        "context_.options.patience);",
        tests=_REPLICAS + "test_a_server_that_is_only_busy_is_waited_for",
    ),
]
