#include "store/remote/transport.h"

#include <netdb.h>

#include <cstring>
#include <stdexcept>

namespace kvcore {

ServerAddress::ServerAddress(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    throw std::invalid_argument("host must be an IPv4 or IPv6 address, got '" + host + "'");
  }
  bytes = found->ai_addrlen;
  std::memcpy(&storage, found->ai_addr, bytes);
  freeaddrinfo(found);
}

}  // namespace kvcore
