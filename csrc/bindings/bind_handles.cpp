#include <pybind11/native_enum.h>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "cache/handles.h"
#include "cache/prefix_cache.h"

namespace kvcore::bindings {
namespace {

constexpr const char* kLeaseDoc =
    R"(Pins a committed prefix, so that its blocks stay where they are.

Released by `release`, at the end of a ``with`` block, or when it is dropped. Thread safe.)";

constexpr const char* kShareDoc =
    R"(Another lease of the same blocks, which pins them when this one is released.

Pins nothing when this one was released before. Not a use of the blocks, and no pin that counts.

Returns
-------
Lease)";

constexpr const char* kReservationDoc = R"(Places for the blocks that a request brings.

Fill the blocks `block_ids`, then `commit` them. What is not committed at the end of a ``with``
block, at `abort`, or when the reservation is dropped, is given back. Thread safe. The arrays are
read-only views and stay good as long as they are held.)";

constexpr const char* kCommitDoc = R"(Publishes the first new blocks, so that others match them.

May be called again with a larger `n`, as more blocks are filled; the rest stays in flight.

Parameters
----------
n : int, optional
    How many of `block_ids`, from the first on; all when left out.

Raises
------
ValueError
    `n` is less than what is committed already, or more than there are.
RuntimeError
    The reservation was aborted.)";

void register_lease(py::module_& module) {
  py::class_<Lease>(module, "Lease", kLeaseDoc)
      .def_property_readonly(
          "num_blocks", [](const Lease& self) { return self.block_ids().size(); },
          "int: blocks that are pinned.")
      .def_property_readonly(
          "block_ids",
          [](py::object self) {
            const auto& ids = self.cast<const Lease&>().block_ids();
            return borrowed_array<uint32_t>(ids.data(), ids.size(), self);
          },
          "uint32[num_blocks]: where they are, from the chain's start.")
      .def("share", &Lease::share, kShareDoc)
      .def("release", &Lease::release, "Unpins the blocks. Idempotent.")
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](Lease& self, const py::args&) { self.release(); })
      .def("__repr__", [](const Lease& self) {
        return "Lease(num_blocks=" + std::to_string(self.block_ids().size()) + ")";
      });
}

void commit(Reservation& reservation, py::handle n) {
  size_t all = reservation.block_ids().size();
  size_t count = n.is_none()
                     ? all
                     : static_cast<size_t>(integer_argument(n, "n", 0, static_cast<int64_t>(all)));
  if (reservation.commit(count)) return;
  if (!reservation.is_open()) {
    throw std::runtime_error("this reservation was aborted; nothing can be committed any more");
  }
  throw py::value_error("n must be at least " + std::to_string(reservation.num_committed()) +
                        ", which are committed already, got " + std::to_string(count));
}

// What a reservation evicted: a view that keeps it alive.
struct Evicted {
  py::object reservation;
  const Reservation& get() const { return reservation.cast<const Reservation&>(); }
};

void register_reservation(py::module_& module) {
  py::native_enum<BlockState>(module, "BlockState", "enum.IntEnum",
                              "What `reserve` answers for a block.")
      .value("NEW", BlockState::kNew)
      .value("PRESENT", BlockState::kPresent)
      .value("IN_FLIGHT", BlockState::kInFlight)
      .value("BYPASSED", BlockState::kBypassed)
      .finalize();

  py::class_<Evicted>(module, "Evicted",
                      "What left the cache to make room; the ids may be in use again.")
      .def_property_readonly(
          "hashes",
          [](const Evicted& self) {
            const auto& hashes = self.get().evicted_hashes();
            return borrowed_array<uint8_t>(hashes.data(), hashes.size() * sizeof(BlockHash),
                                           self.reservation)
                .reshape({static_cast<py::ssize_t>(hashes.size()),
                          static_cast<py::ssize_t>(sizeof(BlockHash))});
          },
          "uint8[n, 16]: what they held; no block before its descendants.")
      .def_property_readonly(
          "block_ids",
          [](const Evicted& self) {
            const auto& ids = self.get().evicted_ids();
            return borrowed_array<uint32_t>(ids.data(), ids.size(), self.reservation);
          },
          "uint32[n]: where they were.")
      .def("__len__", [](const Evicted& self) { return self.get().evicted_ids().size(); });

  py::class_<Reservation>(module, "Reservation", kReservationDoc)
      .def_property_readonly(
          "states",
          [](py::object self) {
            const auto& states = self.cast<const Reservation&>().states();
            return borrowed_array<uint8_t>(states.data(), states.size(), self);
          },
          "uint8[n]: a `BlockState` for each hash that was asked for.")
      .def_property_readonly(
          "new_positions",
          [](py::object self) {
            const auto& at = self.cast<const Reservation&>().new_positions();
            return borrowed_array<uint32_t>(at.data(), at.size(), self);
          },
          "uint32[k]: positions of the new blocks in the chain.")
      .def_property_readonly(
          "block_ids",
          [](py::object self) {
            const auto& ids = self.cast<const Reservation&>().block_ids();
            return borrowed_array<uint32_t>(ids.data(), ids.size(), self);
          },
          "uint32[k]: the ids to fill, one for each of `new_positions`.")
      .def_property_readonly(
          "evicted", [](py::object self) { return Evicted{self}; }, "Evicted: what made room.")
      .def_property_readonly("num_committed", &Reservation::num_committed,
                             "int: new blocks that are published.")
      .def("commit", &commit, kCommitDoc, py::arg("n") = py::none())
      .def("abort", &Reservation::abort, "Gives back all that is not committed. Idempotent.")
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](Reservation& self, const py::args&) { self.abort(); })
      .def("__repr__", [](const Reservation& self) {
        return "Reservation(new=" + std::to_string(self.block_ids().size()) +
               ", committed=" + std::to_string(self.num_committed()) +
               ", evicted=" + std::to_string(self.evicted_ids().size()) + ")";
      });
}

}  // namespace

void register_handles(py::module_& module) {
  register_lease(module);
  register_reservation(module);
}

}  // namespace kvcore::bindings
