"""In csrc/evict: hazard, which learns, and auto, which chooses."""

from planted.bug import Bug

_HAZARD = "csrc/evict/hazard.cpp"
_MODEL = "csrc/evict/hazard_model.cpp"
_COHORTS = "csrc/evict/cohorts.h"
_AUTO = "csrc/evict/auto.cpp"
_CONTEST = "csrc/evict/contest.cpp"
_SHADOW = "csrc/evict/shadow_cache.cpp"
_INVARIANTS = 'cpp "invariants hold*"'
_BOOKS = 'cpp "a shadow cache keeps*"'
_CHOICE = 'cpp "auto moves*"'
_LIFE = "test_policy_conformance.py -k 'any_life and hazard'"
_HAZARD_TESTS = "test_hazard.py"
_MODEL_TESTS = 'cpp "*hazard*"'

BUGS = [
    Bug(
        name="hazard-bypasses-what-is-worth-more",
        why="what comes is bypassed if it is worth more than all that is there",
        file=_HAZARD,
        find="if (cohort.rank > piece.rank) {",
        replace="if (cohort.rank < piece.rank) {",
        tests=_HAZARD_TESTS,
    ),
    Bug(
        name="hazard-leaf-has-no-heir",
        why="when a cohort's deepest span leaves, the rest can never be evicted",
        file=_HAZARD,
        find="cohorts_[cohort].leaf = up != kRootSpan && cohort_of(table_[up]) == cohort ? up : "
        "kRootSpan;",
        replace="cohorts_[cohort].leaf = kRootSpan;",
        tests=_INVARIANTS,
    ),
    Bug(
        name="hazard-heir-of-another-cohort",
        why="a span that another request used last becomes the leaf",
        file=_HAZARD,
        find="up != kRootSpan && cohort_of(table_[up]) == cohort ? up : kRootSpan;",
        replace="up;",
        tests=_INVARIANTS,
    ),
    Bug(
        name="hazard-released-is-not-listed",
        why="a leaf that was held when it was used is never evicted",
        file=_HAZARD,
        find="if (cohorts_[cohort].leaf == id && !cohorts_[cohort].listed) list(cohort);",
        replace="(void)cohort;",
        tests=_INVARIANTS,
    ),
    Bug(
        name="hazard-names-what-is-held",
        why="a leaf that something holds is named as the next to leave",
        file=_HAZARD,
        find="if (leaf.holds != 0) {\n      unlist(id);",
        replace="if (leaf.holds > 1) {\n      unlist(id);",
        tests=_LIFE,
    ),
    Bug(
        name="hazard-ages-are-not-advanced",
        why="what grows old without being used teaches nothing",
        file=_HAZARD,
        find="  age(now_us_);\n",
        replace="",
        tests=_HAZARD_TESTS,
    ),
    Bug(
        name="hazard-touches-are-uses",
        why="a request that touches its blocks again counts as another",
        file=_HAZARD,
        find="if (span.vacant || before == current_) continue;",
        replace="if (span.vacant) continue;",
        tests=_INVARIANTS,
    ),
    Bug(
        name="hazard-never-continues-a-session",
        why="no request is the next turn of another",
        file=_HAZARD,
        find="bool continues = previous_.length == known;",
        replace="bool continues = false;",
        tests=_HAZARD_TESTS,
    ),
    Bug(
        name="hazard-ghosts-without-bound",
        why="what has left is remembered for ever",
        file=_HAZARD,
        find="  if (ghosts > max_ghosts_) {",
        replace="  if (ghosts > 2 * max_ghosts_) {",
        tests="test_policy_conformance.py -k 'memory and hazard'",
    ),
    Bug(
        name="hazard-forgotten-still-count",
        why="a cohort whose ghosts were forgotten never ends",
        file=_HAZARD,
        find="  forget();\n}\n\nvoid HazardPolicy::forget()",
        replace="}\n\nvoid HazardPolicy::forget()",
        tests="test_policy_conformance.py -k 'memory and hazard'",
    ),
    Bug(
        name="hazard-empty-cohorts-stay",
        why="records of requests of which nothing is known any more are never freed",
        file=_HAZARD,
        find="if (cohort.is_empty() && id != current_) cohorts_.free(id);",
        replace="",
        tests="test_hazard.py -k levels_off",
    ),
    Bug(
        name="hazard-split-without-cohort",
        why="the head of a split span belongs to no request",
        file=_HAZARD,
        find="  head.last_request = tail.last_request;\n",
        replace="",
        tests=_INVARIANTS,
    ),
    Bug(
        name="hazard-rank-stands-still",
        why="between the ends of a bucket the rank does not move",
        file=_HAZARD,
        find="(cohort.ranks.end - cohort.ranks.start) * part;",
        replace="(cohort.ranks.end - cohort.ranks.start) * 0;",
        tests=_HAZARD_TESTS,
    ),
    Bug(
        name="hazard-finish-tells-nothing",
        why="the length of the answer is not learnt from",
        file=_HAZARD,
        find="  cohort.traits.output = output_of(output_tokens);\n",
        replace="",
        tests="test_hazard.py -k answer",
    ),
    Bug(
        name="model-learns-away",
        why="weights move away from what has happened",
        file=_MODEL,
        find="values[i] -= kRate * gradient",
        replace="values[i] += kRate * gradient",
        tests=_MODEL_TESTS,
    ),
    Bug(
        name="model-rank-is-the-worst-time",
        why="the index is the ratio over the longest time, not the best one",
        file=_MODEL,
        find="if ((1 - left) * best_time > best_chance * time) {",
        replace="{",
        tests=_MODEL_TESTS,
    ),
    Bug(
        name="model-bucket-off-by-one",
        why="an age at the edge belongs to the younger bucket",
        file=_MODEL,
        find="std::upper_bound(kEdges.begin() + 1,",
        replace="std::lower_bound(kEdges.begin() + 1,",
        tests=_MODEL_TESTS,
    ),
    Bug(
        name="model-trait-left-out",
        why="the length of a request is learnt as how much of it is fresh",
        file=_MODEL,
        find="&w.length[t.length],",
        replace="&w.length[t.fresh],",
        tests=_MODEL_TESTS,
    ),
    Bug(
        name="cohorts-advance-in-place",
        why="a cohort grows older but stays in the queue of its age before",
        file=_COHORTS,
        find="    unlink(id);\n    push_back(++(*this)[id].bucket, id);",
        replace="    unlink(id);\n    push_back((*this)[id].bucket, id);",
        tests=_INVARIANTS,
    ),
    Bug(
        name="auto-takes-over-in-name-alone",
        why="a span that goes over to the next policy is not taken from the one before",
        file=_AUTO,
        find="    withdraw(*id, span.length);\n",
        replace="",
        tests=_CHOICE,
    ),
    Bug(
        name="auto-split-is-not-counted",
        why="the head of a split span is nobody's",
        file=_AUTO,
        find="  ++order_of(head).spans;\n",
        replace="",
        tests=_INVARIANTS,
    ),
    Bug(
        name="contest-the-worst-leads",
        why="the policy that finds least takes over",
        file=_CONTEST,
        find="if (contender.lead > contenders_[best].lead) best = i;",
        replace="if (contender.lead < contenders_[best].lead) best = i;",
        tests=_CHOICE,
    ),
    Bug(
        name="contest-sample-is-no-chain",
        why="which blocks of a chain are looked at depends on its length",
        file=_CONTEST,
        find="(stride_ - 1 - depth) & (stride_ - 1);",
        replace="0;",
        tests=_CHOICE,
    ),
    Bug(
        name="shadow-released-is-not-told",
        why="the last child of a span leaves a small cache and its parent stays for ever",
        file=_SHADOW,
        find="  if (table_[parent].holds == 0) policy_->released(parent);\n",
        replace="",
        tests=_BOOKS,
    ),
    Bug(
        name="shadow-keeps-the-bypassed",
        why="a small cache takes in what its policy would bypass",
        file=_SHADOW,
        find="static_cast<uint32_t>(missing.size()) - bypassed);",
        replace="static_cast<uint32_t>(missing.size()) - 0 * bypassed);",
        tests=_BOOKS,
    ),
]
