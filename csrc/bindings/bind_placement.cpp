#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/placement_argument.h"
#include "bindings/register.h"
#include "bindings/waiting.h"
#include "store/remote/aibrix_slots.h"
#include "store/remote/names.h"
#include "store/remote/rendezvous.h"

namespace kvcore::bindings {
namespace {

BoundPlacement rendezvous(const std::vector<std::pair<std::string, double>>& servers) {
  std::vector<Rendezvous::Server> weighted;
  for (const auto& [name, weight] : servers) weighted.push_back({name, weight});
  return {std::make_shared<const Rendezvous>(weighted), static_cast<uint32_t>(servers.size())};
}

using RangeTuple = std::tuple<uint32_t, uint32_t, uint32_t>;

BoundPlacement aibrix(const std::vector<RangeTuple>& tuples, uint32_t num_servers) {
  std::vector<AibrixSlots::Range> ranges;
  for (const auto& [server, first, last] : tuples) ranges.push_back({server, first, last});
  return {std::make_shared<const AibrixSlots>(ranges, num_servers), num_servers};
}

py::array_t<int32_t> place(const BoundPlacement& self, py::handle scope, py::handle hashes,
                           py::handle replicas) {
  const Fingerprint fingerprint = fingerprint_argument(scope);
  const HashesArgument names(hashes);
  const auto columns = static_cast<size_t>(integer_argument(replicas, "replicas", 1, 16));
  py::array_t<int32_t> array({names.get().size(), columns});
  auto* row = array.mutable_data();
  const Waiting waiting;
  std::vector<uint32_t> servers(columns);
  for (const BlockHash& name : names.get()) {
    const size_t count = self.placement->place(name, names::record_key(fingerprint, name), servers);
    std::fill_n(row, columns, -1);
    std::copy_n(servers.begin(), count, row);
    row += columns;
  }
  return array;
}

}  // namespace

void register_placement(py::module_& module) {
  py::class_<BoundPlacement>(module, "Placement", "Which servers have a chunk.")
      .def_static("rendezvous", &rendezvous, py::arg("servers"))
      .def_static("aibrix", &aibrix, py::arg("ranges"), py::arg("num_servers"))
      .def_readonly("num_servers", &BoundPlacement::num_servers)
      .def("place", &place, py::arg("scope"), py::arg("hashes"), py::arg("replicas"));
}

}  // namespace kvcore::bindings
