#pragma once

#include <span>

#include "store/remote/remote_context.h"

namespace kvcore {

// For chunks of several servers. A chunk was found on one of them: asks others whether they have it
// too, and gives it to those that do not. A server that was restarted empty is refilled with what
// is in use before another one is restarted. In the background, a few at a time; what is under way
// when the store closes is let go.
//
// On the transport's thread alone.
void refill_servers(RemoteContext& context, const BlockHash& name, const KnownChunk& chunk,
                    std::span<const ServerId> others);

}  // namespace kvcore
