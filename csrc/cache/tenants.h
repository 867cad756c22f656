#pragma once

#include <array>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/virtual_array.h"
#include "evict/policy.h"

namespace kvcore {

// What a tenant may have, as shares of the cache.
struct TenantQuota {
  double guarantee = 0;  // never taken from it by others
  double weight = 1;     // of its part of what is lent
  double ceiling = 1;    // never more
};
using TenantQuotas = std::map<std::string, TenantQuota>;

// Throws std::invalid_argument naming what is wrong with `whose` ("" or a text) quota.
void check_quota(const TenantQuota& quota, const std::string& whose);

struct TenantStats {
  std::string tenant;
  double used_blocks = 0;         // charged to it now
  uint64_t requested_blocks = 0;  // that its requests asked for, as acquire() saw them
  uint64_t hit_blocks = 0;        // of these, found
  uint64_t evicted_blocks = 0;    // that left its order to make room
};

// Divides the cache among tenants, whatever the policy: each tenant has an eviction policy of its
// own for the spans that it used last, so what others do never changes the order of its blocks.
// Who is not named is charged to the account "".
//
//   1. A block is charged in equal parts to the tenants that have used it since it came, and stands
//      in the order of the one that used it last.
//   2. Who is above its ceiling gives before it gets. Sharing what is there is never refused.
//   3. When there is no room, the one gives that is above its guarantee by the most for its weight,
//      whoever asks counted with what it asks for. So what is unused is lent, and comes back when
//      it is asked for. Where that is the one who asks, it bypasses what its own cannot make room
//      for.
//   4. A block that is to leave, and that a tenant within its guarantee uses too, is passed on to
//      that one, as used now: the giver's use of it ends, and of all in the giver's order above it.
//      While there is room and a ceiling makes its tenant give, any other user within its own
//      ceiling keeps the block.
//
// So nobody within its guarantee loses a block that it uses to another's pressure, charges add up
// to the blocks that are used, and who shares pays less than who does not. A use that its tenant
// does not repeat is charged for as long as others keep the block.
//
// A span belongs to the order of one tenant (Span::tenant); its users are a bit each in an array
// beside the table. A touch costs the policy's own and, for each span that comes from another's
// order, leaving that; choosing a giver costs a look at each tenant. Memory: 8 bytes a span, and
// each tenant's policy, which is made when it is first needed. Not thread safe.
class TenantPolicy final : public EvictionPolicy {
 public:
  static constexpr size_t kMaxNamed = 63;

  // Throws std::invalid_argument naming what is wrong with the quotas.
  TenantPolicy(BlockTable& table, std::string_view policy, uint32_t num_blocks,
               const TenantQuotas& quotas);

  // A request wants so many blocks more than there are.
  void begin(const RequestInfo& request, uint64_t wanted) noexcept;
  // The blocks that it may bring below its ceiling.
  uint64_t room() const noexcept;

  // Whether what a tenant keeps by hints may be let go for the request at hand: its own, and that
  // of one above its guarantee while it is not given all that it is guaranteed.
  bool may_take_from(uint32_t tenant) const noexcept;

  void count(const RequestInfo& request, size_t requested, size_t found) noexcept;
  std::vector<TenantStats> stats() const;  // "" first, then by name

  std::span<const uint32_t> remember(std::span<const SpanId> path,
                                     std::span<const BlockHash> missing,
                                     const Use& use) noexcept override;
  void enter(SpanId id, std::optional<uint32_t> position) noexcept override;
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void finish(const Use& use, uint64_t output_tokens) noexcept override;
  void split(SpanId head, SpanId tail) noexcept override;
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override;
  void withdraw(SpanId id, uint32_t blocks) noexcept override;
  void released(SpanId id) noexcept override;
  size_t bytes() const noexcept override;
  void check_invariants() const override;

 private:
  using Users = uint64_t;                                // a bit a tenant
  static constexpr uint64_t kBlock = uint64_t{1} << 20;  // charges are counted in parts of a block

  struct Tenant {
    std::string name;
    uint64_t guarantee, ceiling;  // in parts
    double weight;
    uint64_t used = 0;            // in parts
    uint32_t ordered_blocks = 0;  // that stand in its order
    uint64_t requested_blocks = 0, hit_blocks = 0, evicted_blocks = 0;
    std::unique_ptr<EvictionPolicy> order;
  };
  // Who may have to give.
  struct Giver {
    uint32_t tenant = 0;
    double excess = 0;  // above its guarantee, for its weight; 0: it does not give
  };

  uint32_t tenant_of(const RequestInfo& request) noexcept;
  EvictionPolicy& order_of(uint32_t tenant) noexcept;
  Users& users_of(SpanId id) noexcept;
  static uint64_t part_of(Users users, uint32_t tenant) noexcept;
  template <typename Change>
  void for_each_part(Users users, uint64_t blocks, Change&& change) noexcept;
  void set_users(SpanId id, Users users) noexcept;
  void lose(SpanId id, uint32_t blocks) noexcept;
  void take_over(std::span<const SpanId> path, uint32_t tenant) noexcept;

  uint64_t room_for(uint32_t tenant) const noexcept;
  Giver giver_with(uint32_t tenant, uint64_t got, uint64_t given) const noexcept;
  bool precedes(Giver a, Giver b) const noexcept;
  Giver next_giver(Users others) const noexcept;
  uint32_t blocks_given(Giver giver, Users others, uint32_t blocks) const noexcept;
  bool pass_on(SpanId id, uint32_t giver, bool crowded) noexcept;
  bool want_less(Users others) noexcept;

  BlockTable& table_;
  const std::string policy_;
  const uint32_t num_blocks_;
  std::vector<Tenant> tenants_;  // [0]: ""
  std::map<std::string, uint32_t, std::less<>> names_;
  VirtualArray<Users> users_;  // by span; 0: vacant
  uint64_t held_blocks_ = 0;
  const RequestInfo nobody_{};  // whose use passing on is
  std::vector<SpanId> path_;    // scratch
  uint32_t last_serial_ = 0;    // of the request that tenant_of() was asked about last
  uint32_t last_tenant_ = 0;
  int64_t now_us_ = 0;

  // Of the request at hand:
  uint32_t asking_ = 0;
  uint64_t wanted_ = 0;        // blocks; fewer than it began with, where it cannot get all
  bool wants_blocks_ = false;  // or else records, which are nobody's
};

}  // namespace kvcore
