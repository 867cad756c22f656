#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "store/remote/remote_context.h"

namespace kvcore {

// A server as a cluster names it: what has another name or address is another server.
struct NamedServer {
  std::string name;
  ServerAddress address;
};

// A store on servers that other processes use as well. Neighbours of a chain are kept as one value,
// a chunk. What other processes wrote is found by asking: match() tells what this one knows,
// contains() asks the servers, and match() knows it then.
//
// RemoteWalk reads, RemoteSave writes, Transport carries, Placement says where to.
class RemoteStore final : public Store {
 public:
  // Throws std::invalid_argument naming an option.
  RemoteStore(const RemoteOptions& options, std::unique_ptr<Transport> transport);
  ~RemoteStore() override { close(); }

  // From now on. What is under way on servers that are not among them any more fails.
  void set_servers(const std::vector<NamedServer>& servers,
                   std::shared_ptr<const Placement> placement);

  std::shared_ptr<Batch> get_into(Keys keys, std::span<std::byte* const> destinations,
                                  Deadline deadline) override;
  std::shared_ptr<Batch> put_from(Keys keys, std::span<const std::byte* const> sources,
                                  Deadline deadline) override;
  std::shared_ptr<Batch> contains(Keys keys, Deadline deadline) override;
  std::shared_ptr<Batch> remove(Keys keys, Deadline deadline) override;
  size_t match(Keys keys) const override;
  uint64_t value_bytes() const noexcept override { return options_.block_bytes; }
  uint32_t chunk_blocks() const noexcept { return options_.chunk_blocks; }
  StoreStats stats() const override;
  // Of each server; empty when closed.
  std::map<std::string, ServerStats> server_stats() const;
  void close() override;

 private:
  // Has a task done on the transport's thread, or, closed, all keys decided so.
  void post(const std::shared_ptr<Batch>& batch, Outcome closed, std::function<void()> task);
  size_t admit(size_t num_keys) const;

  const RemoteOptions options_;
  std::unique_ptr<RemoteContext> context_;
  struct Known {
    ServerAddress address;
    ServerId id;
  };
  std::map<std::string, Known> by_name_;  // on the transport's thread
};

}  // namespace kvcore
