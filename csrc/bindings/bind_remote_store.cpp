#include <pybind11/stl.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/placement_argument.h"
#include "bindings/register.h"
#include "bindings/waiting.h"
#include "store/remote/connection.h"
#include "store/remote/line_transport.h"
#include "store/remote/process_line.h"
#include "store/remote/remote_store.h"

namespace kvcore::bindings {
namespace {

Clock::duration seconds_argument(py::handle object, const char* argument) {
  const double seconds = number_argument(object, argument);
  if (!(seconds > 0) || seconds > 3600) {
    throw py::value_error(std::string(argument) + " must be above 0 and at most 3600, got " +
                          describe(object));
  }
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// A process for each line, or TCP where there is no command.
MakeLine lines_argument(py::handle object) {
  if (object.is_none()) return tcp_lines();
  return process_lines(object.cast<std::vector<std::string>>());
}

std::shared_ptr<RemoteStore> new_store(py::handle scope, py::handle block_bytes,
                                       py::handle chunk_blocks, py::handle replicas,
                                       py::handle connections, py::handle stall_s,
                                       py::handle first_probe_s, py::handle last_probe_s,
                                       py::handle record_age_s, py::handle patience_s,
                                       py::handle max_queued_bytes, py::handle max_queue_delay_s,
                                       py::handle line_command) {
  const RemoteOptions options{
      .scope = fingerprint_argument(scope),
      .block_bytes =
          static_cast<uint64_t>(integer_argument(block_bytes, "value_bytes", 1, int64_t{1} << 30)),
      .chunk_blocks =
          static_cast<uint32_t>(integer_argument(chunk_blocks, "chunk_blocks", 1, 1 << 20)),
      .replicas = static_cast<uint32_t>(integer_argument(replicas, "replicas", 1, 16)),
      .max_queued_bytes = static_cast<uint64_t>(
          integer_argument(max_queued_bytes, "max_queued_bytes", 0, int64_t{1} << 46)),
      .max_queue_delay = seconds_argument(max_queue_delay_s, "max_queue_delay_s"),
      .record_age = seconds_argument(record_age_s, "record_age_s"),
      .patience = seconds_argument(patience_s, "patience_s"),
  };
  const ServerOptions server{
      .connections = static_cast<uint32_t>(integer_argument(connections, "connections", 1, 64)),
      .stall = seconds_argument(stall_s, "stall_s"),
      .first_probe = seconds_argument(first_probe_s, "first_probe_s"),
      .last_probe = seconds_argument(last_probe_s, "last_probe_s"),
  };
  MakeLine make_line = lines_argument(line_command);
  const Waiting waiting;
  return std::make_shared<RemoteStore>(
      options, std::make_unique<LineTransport>(std::move(make_line), server));
}

using ServerTuple = std::tuple<std::string, std::string, uint16_t>;

void set_servers(RemoteStore& self, const std::vector<ServerTuple>& servers,
                 const BoundPlacement& placement) {
  if (placement.num_servers != servers.size()) {
    throw py::value_error("placement must be of " + std::to_string(servers.size()) +
                          " servers, got one of " + std::to_string(placement.num_servers));
  }
  std::vector<NamedServer> named;
  std::set<std::string> names;
  for (const auto& [name, host, port] : servers) {
    if (!names.insert(name).second) {
      throw py::value_error("servers must have different names, got '" + name + "' twice");
    }
    named.push_back({name, ServerAddress(host, port)});
  }
  const Waiting waiting;
  self.set_servers(named, placement.placement);
}

}  // namespace

void register_remote_stores(py::module_& module) {
  py::class_<ServerStats>(module, "ServerStats", "What a server was asked and answered.")
      .def_readonly("is_well", &ServerStats::is_well)
      .def_readonly("requests", &ServerStats::requests)
      .def_readonly("failed", &ServerStats::failed)
      .def_readonly("timed_out", &ServerStats::timed_out)
      .def_readonly("refused", &ServerStats::refused)
      .def_readonly("connects", &ServerStats::connects)
      .def_readonly("give_ups", &ServerStats::give_ups)
      .def_readonly("sent_bytes", &ServerStats::sent_bytes)
      .def_readonly("received_bytes", &ServerStats::received_bytes)
      .def_readonly("latency_us", &ServerStats::latency_us);
  py::class_<RemoteStore, Store, std::shared_ptr<RemoteStore>>(
      module, "RemoteStoreCore", py::release_gil_before_calling_cpp_dtor())
      .def(py::init(&new_store), py::kw_only(), py::arg("scope"), py::arg("value_bytes"),
           py::arg("chunk_blocks"), py::arg("replicas"), py::arg("connections"), py::arg("stall_s"),
           py::arg("first_probe_s"), py::arg("last_probe_s"), py::arg("record_age_s"),
           py::arg("patience_s"), py::arg("max_queued_bytes"), py::arg("max_queue_delay_s"),
           py::arg("line_command"))
      .def("set_servers", &set_servers, py::arg("servers"), py::arg("placement"))
      .def("server_stats", [](const RemoteStore& self) {
        std::map<std::string, ServerStats> stats;
        {
          const Waiting waiting;
          stats = self.server_stats();
        }
        return stats;
      });
}

}  // namespace kvcore::bindings
