"""In copies by a device: the bodies of its kernels, and the streams and events around them."""

from planted.bug import Bug

_BODY = "csrc/copy/copy_body.h"
_CUDA = "csrc/copy/cuda/*"
_ANY_SIZE_TEST = 'cpp "kernel bodies copy runs of any size*"'
_RING_TEST = 'cpp "a bulk ring that goes round*"'

BUGS = [
    Bug(
        name="device-tail-of-a-run-too-long",
        why="the last unit of a run writes a word beyond it",
        files=_BODY,
        find="if (offset < unit.bytes) Memory::store(unit.to + offset, words[k]);",
        replace="if (offset <= unit.bytes) Memory::store(unit.to + offset, words[k]);",
        tests=_ANY_SIZE_TEST,
    ),
    Bug(
        name="device-ring-waits-on-the-wrong-parity",
        why="a slot that is used again is taken for loaded at once",
        files=_BODY,
        find="ring.wait_loaded(slot, step / kBulkSlots & 1);",
        replace="ring.wait_loaded(slot, 0);",
        tests=_RING_TEST,
    ),
    Bug(
        name="device-ring-loads-over-its-stores",
        why="a slot is loaded while its last store still reads it",
        files=_BODY,
        find="ring.template wait_read<kBulkStores>();",
        replace="ring.template wait_read<kBulkStores + 1>();",
        tests=_RING_TEST,
    ),
    Bug(
        name="device-units-overflow",
        why="a copy of more units than 32 bits count is not cut into parts",
        files=_BODY,
        find="return blocks < view.num_blocks ? static_cast<uint32_t>(blocks) : view.num_blocks;",
        replace="return view.num_blocks;",
        tests='cpp "a copy with more units*"',
    ),
    Bug(
        name="device-slab-counts-for-alignment-no-more",
        why="wide words at addresses of the slab that they do not divide",
        files="csrc/copy/device_path.cpp",
        find="uint64_t bits = view.slab | view.slab_stride",
        replace="uint64_t bits = view.slab_stride",
        tests='cpp "the widest word*"',
    ),
    Bug(
        name="device-staged-gather-overwrites-its-slot",
        why="a slot is gathered into before the copy engine has emptied it",
        files=_CUDA,
        find="if (num_chunks_ >= slots_.size()) slot.emptied.hold(stream);",
        replace="",
        tests='cpp "staged copies go round*"',
    ),
    Bug(
        name="device-staged-scatter-overwrites-its-slot",
        why="a slot is filled before the kernel has emptied it",
        files=_CUDA,
        find="if (num_chunks_ >= slots_.size()) slot.emptied.hold(side_.get());",
        replace="",
        tests='cpp "staged copies go round*"',
    ),
    Bug(
        name="device-staged-copies-share-the-ring",
        why="a copy on another stream does not wait for the one that has the ring",
        files=_CUDA,
        find="for (const Event& event : *latest_) event.hold(stream);",
        replace="",
        tests='cpp "staged copies on several streams*"',
    ),
    Bug(
        name="device-staged-copy-does-not-join",
        why="what follows on the stream does not wait for the copy engine",
        files=_CUDA,
        find="if (staged_) staged_->join(stream);",
        replace="",
        tests='cpp "device copies take their place*"',
    ),
    Bug(
        name="device-batch-leaves-the-default-stream",
        why="what follows on the default stream does not wait for the batch",
        files="csrc/copy/cuda/copy_engine.cpp",
        find="both_.record(side_.get());\n  both_.hold(stream);",
        replace="both_.record(side_.get());",
        tests='cpp "device copies take their place*"',
    ),
    Bug(
        name="device-capture-waits-for-what-is-outside",
        why="a captured copy waits for one that no graph has",
        files=_CUDA,
        find="if (staged_ && latest_ && !captured) {",
        replace="if (staged_ && latest_) {",
        tests='cpp "a graph replays*"',
    ),
    Bug(
        name="device-layer-waits-for-the-step-before",
        why="the last layers of a step wait for another step",
        files=_CUDA,
        find="(*events_)[layer / layers_a_step_].hold(stream);",
        replace="(*events_)[layer / (layers_a_step_ + 1)].hold(stream);",
        tests='cpp "a stream that is held*"',
    ),
    Bug(
        name="device-events-of-pending-copies-are-used-again",
        why="a transfer forgets a copy that is under way, and dies before it",
        files=_CUDA,
        find="return set.use_count() == 1 && have_passed(*set);",
        replace="return set.use_count() == 1;",
        tests='cpp "a transfer that dies*"',
    ),
]
