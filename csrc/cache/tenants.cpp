#include "cache/tenants.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <ranges>
#include <stdexcept>

#include "common/check.h"

namespace kvcore {
namespace {

constexpr uint64_t bit(uint32_t tenant) noexcept { return uint64_t{1} << tenant; }

// Calls `visit(tenant)` for every bit.
template <typename Visit>
void for_each_bit(uint64_t users, Visit&& visit) {
  for (; users != 0; users &= users - 1) visit(static_cast<uint32_t>(std::countr_zero(users)));
}

std::string shown(double value) {
  std::string text = std::to_string(value);
  return text.substr(0, text.find_last_not_of('0') + 1);
}

void check_quotas(const TenantQuotas& quotas) {
  double guaranteed = 0;
  for (const auto& [name, quota] : quotas) {
    check_quota(quota, "tenants[\"" + name + "\"]: ");
    guaranteed += quota.guarantee;
  }
  if (guaranteed > 1 + 1e-9) {
    throw std::invalid_argument("tenants must have guarantees of at most 1 together, got " +
                                shown(guaranteed));
  }
  if (size_t named = quotas.size() - quotas.count(""); named > TenantPolicy::kMaxNamed) {
    throw std::invalid_argument("tenants must name at most " +
                                std::to_string(TenantPolicy::kMaxNamed) + ", got " +
                                std::to_string(named));
  }
}

}  // namespace

void check_quota(const TenantQuota& quota, const std::string& whose) {
  auto check = [&](bool allowed, const char* field, double value, const char* rule) {
    if (allowed) return;
    throw std::invalid_argument(whose + field + " must be " + rule + ", got " + shown(value));
  };
  auto [guarantee, weight, ceiling] = quota;
  check(guarantee >= 0 && guarantee <= 1, "guarantee", guarantee, "from 0 to 1");
  check(weight >= 1e-6 && weight <= 1e6, "weight", weight, "from 1e-6 to 1e6");
  check(ceiling > 0 && ceiling <= 1, "ceiling", ceiling, "above 0 and at most 1");
  check(ceiling >= guarantee, "ceiling", ceiling, "at least the guarantee");
}

TenantPolicy::TenantPolicy(BlockTable& table, std::string_view policy, uint32_t num_blocks,
                           const TenantQuotas& quotas)
    : table_(table), policy_(policy), num_blocks_(num_blocks), users_(table.record_capacity()) {
  check_quotas(quotas);
  auto add = [this](const std::string& name, const TenantQuota& quota) {
    auto parts = [this](double share) {
      return static_cast<uint64_t>(std::llround(share * num_blocks_ * double{kBlock}));
    };
    names_.emplace(name, static_cast<uint32_t>(tenants_.size()));
    Tenant& tenant = tenants_.emplace_back();
    tenant.name = name;
    tenant.guarantee = parts(quota.guarantee);
    tenant.ceiling = parts(quota.ceiling);
    tenant.weight = quota.weight;
  };
  if (!quotas.contains("")) add("", {});
  for (const auto& [name, quota] : quotas) add(name, quota);  // "" is the first of the names
}

uint32_t TenantPolicy::tenant_of(const RequestInfo& request) noexcept {
  if (request.serial != last_serial_) {
    auto found = names_.find(request.tenant);
    last_tenant_ = found == names_.end() ? 0 : found->second;
    last_serial_ = request.serial;
  }
  return last_tenant_;
}

EvictionPolicy& TenantPolicy::order_of(uint32_t tenant) noexcept {
  std::unique_ptr<EvictionPolicy>& order = tenants_[tenant].order;
  if (order == nullptr) order = make_policy(policy_, table_, num_blocks_);
  return *order;
}

TenantPolicy::Users& TenantPolicy::users_of(SpanId id) noexcept {
  users_.grow(table_.record_limit());
  return users_[index_of(id)];
}

// What of a block is charged to one of its users; the first takes what cannot be divided.
uint64_t TenantPolicy::part_of(Users users, uint32_t tenant) noexcept {
  auto count = static_cast<uint64_t>(std::popcount(users));
  bool first = bit(tenant) == (users & -users);
  return kBlock / count + (first ? kBlock % count : 0);
}

template <typename Change>
void TenantPolicy::for_each_part(Users users, uint64_t blocks, Change&& change) noexcept {
  for_each_bit(users, [&](uint32_t tenant) {
    change(tenants_[tenant].used, blocks * part_of(users, tenant));
  });
}

void TenantPolicy::set_users(SpanId id, Users users) noexcept {
  Users& now = users_of(id);
  const uint64_t blocks = table_[id].length;
  for_each_part(now, blocks, [](uint64_t& used, uint64_t parts) { used -= parts; });
  for_each_part(users, blocks, [](uint64_t& used, uint64_t parts) { used += parts; });
  now = users;
}

void TenantPolicy::begin(const RequestInfo& request, uint64_t wanted) noexcept {
  asking_ = tenant_of(request);
  wanted_ = wanted;
  wants_blocks_ = wanted > 0;
}

uint64_t TenantPolicy::room_for(uint32_t tenant) const noexcept {
  const auto& [used, ceiling] = std::tie(tenants_[tenant].used, tenants_[tenant].ceiling);
  return used < ceiling ? (ceiling - used) / kBlock : 0;
}

uint64_t TenantPolicy::room() const noexcept { return room_for(asking_); }

bool TenantPolicy::may_take_from(uint32_t tenant) const noexcept {
  if (tenant == asking_) return true;
  const uint64_t fit = std::min<uint64_t>(num_blocks_ - held_blocks_, room());
  return giver_with(asking_, fit + 1, 0).excess == 0 && giver_with(tenant, 0, 0).excess > 0;
}

void TenantPolicy::count(const RequestInfo& request, size_t requested, size_t found) noexcept {
  Tenant& tenant = tenants_[tenant_of(request)];
  tenant.requested_blocks += requested;
  tenant.hit_blocks += found;
}

std::vector<TenantStats> TenantPolicy::stats() const {
  std::vector<TenantStats> all;
  for (const Tenant& tenant : tenants_) {
    all.push_back({tenant.name, static_cast<double>(tenant.used) / double{kBlock},
                   tenant.requested_blocks, tenant.hit_blocks, tenant.evicted_blocks});
  }
  return all;
}

std::span<const uint32_t> TenantPolicy::remember(std::span<const SpanId> path,
                                                 std::span<const BlockHash> missing,
                                                 const Use& use) noexcept {
  now_us_ = use.now_us;
  path_.clear();
  bool are_its_own = true;
  for (SpanId id : path) {
    if (table_[id].vacant) continue;
    path_.push_back(id);
    are_its_own &= table_[id].tenant == asking_;
  }
  if (!are_its_own) touch(path_, use);
  return order_of(asking_).remember(path, missing, use);
}

void TenantPolicy::enter(SpanId id, std::optional<uint32_t> position) noexcept {
  set_users(id, bit(asking_));
  held_blocks_ += table_[id].length;
  tenants_[asking_].ordered_blocks += table_[id].length;
  if (table_[id].tenant != asking_) table_[id].forget_order();  // another's, and vacant
  table_[id].tenant = static_cast<uint8_t>(asking_);
  order_of(asking_).enter(id, position);
}

void TenantPolicy::touch(std::span<const SpanId> path, const Use& use) noexcept {
  now_us_ = use.now_us;
  uint32_t tenant = tenant_of(use.request);
  take_over(path, tenant);
  order_of(tenant).touch(path, use);
}

// The spans of a path come to stand in one tenant's order. They leave others' from the end on, as
// if they were evicted.
void TenantPolicy::take_over(std::span<const SpanId> path, uint32_t tenant) noexcept {
  for (SpanId id : path | std::views::reverse) {
    const Span& span = table_[id];
    if (span.tenant == tenant) continue;
    tenants_[span.tenant].ordered_blocks -= span.length;
    order_of(span.tenant).withdraw(id, span.length);
  }
  for (SpanId id : path) {
    if (table_[id].tenant != tenant) {
      table_[id].forget_order();
      table_[id].tenant = static_cast<uint8_t>(tenant);
      tenants_[tenant].ordered_blocks += table_[id].length;
      order_of(tenant).enter(id, std::nullopt);
    }
    Users users = users_of(id);
    if ((users & bit(tenant)) == 0) set_users(id, users | bit(tenant));
  }
}

void TenantPolicy::finish(const Use& use, uint64_t output_tokens) noexcept {
  order_of(tenant_of(use.request)).finish(use, output_tokens);
}

void TenantPolicy::split(SpanId head, SpanId tail) noexcept {
  table_[head].tenant = table_[tail].tenant;
  users_of(head) = users_of(tail);
  order_of(table_[tail].tenant).split(head, tail);
}

// By how much a tenant would be above its guarantee, for its weight, if it got so many blocks and
// gave so many that are all its own.
TenantPolicy::Giver TenantPolicy::giver_with(uint32_t tenant, uint64_t got,
                                             uint64_t given) const noexcept {
  const Tenant& of = tenants_[tenant];
  auto parts = static_cast<int64_t>(of.used + got * kBlock) -
               static_cast<int64_t>(of.guarantee + given * kBlock);
  return {tenant, std::max(static_cast<double>(parts), 0.0) / of.weight};
}

bool TenantPolicy::precedes(Giver a, Giver b) const noexcept {
  if (a.excess == 0) return false;
  if (a.excess != b.excess) return a.excess > b.excess;
  if (a.tenant == asking_ || b.tenant == asking_) return a.tenant == asking_;
  return a.tenant < b.tenant;
}

TenantPolicy::Giver TenantPolicy::next_giver(Users others) const noexcept {
  Giver first{asking_, 0};
  for_each_bit(others, [&](uint32_t tenant) {
    Giver giver = giver_with(tenant, tenant == asking_ ? wanted_ : 0, 0);
    if (precedes(giver, first)) first = giver;
  });
  return first;
}

// How many of `blocks` it gives before it is another's turn.
uint32_t TenantPolicy::blocks_given(Giver giver, Users others, uint32_t blocks) const noexcept {
  const Giver next = next_giver(others & ~bit(giver.tenant));
  const uint64_t got = giver.tenant == asking_ ? wanted_ : 0;
  auto still_gives = [&](uint32_t given) {
    return precedes(giver_with(giver.tenant, got, given), next);
  };
  uint32_t low = 1, high = blocks;
  while (low < high) {
    uint32_t middle = high - (high - low) / 2;
    if (still_gives(middle - 1)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

EvictionPolicy::Victim TenantPolicy::oldest() noexcept {
  Users others =
      tenants_.size() == 64 ? ~Users{0} : bit(static_cast<uint32_t>(tenants_.size())) - 1;
  for (;;) {
    const uint64_t free = num_blocks_ - held_blocks_, room = room_for(asking_);
    const uint64_t fit = std::min(free, room);
    if (wants_blocks_ && wanted_ <= fit) return {};
    const bool above_ceiling = room < wanted_;
    const Giver giver = above_ceiling ? Giver{asking_, 1} : next_giver(others);
    if (giver.excess == 0) return {};
    EvictionPolicy& order = order_of(giver.tenant);
    order.resize(tenants_[giver.tenant].ordered_blocks +
                 static_cast<uint32_t>(giver.tenant == asking_ ? free : 0));
    auto [id, blocks] = order.oldest();
    if (id == kRootSpan) {
      const bool rest = blocks == kBypassRest.blocks;
      if (blocks > 0 && !rest && giver.tenant == asking_ && wants_blocks_) {
        blocks = static_cast<uint32_t>(std::min<uint64_t>(blocks, wanted_ - fit));
        wanted_ -= blocks;
        return {id, blocks};
      }
      if (giver.tenant != asking_ || !wants_blocks_) {
        others &= ~bit(giver.tenant);
      } else if (!want_less(others)) {
        return rest ? kBypassRest : Victim{};
      }
      continue;
    }
    if (pass_on(id, giver.tenant, free < wanted_)) continue;
    if (wanted_ > fit) {
      const uint64_t lack = wanted_ - (above_ceiling ? room : fit);
      blocks = static_cast<uint32_t>(std::min<uint64_t>(blocks, lack));
    }
    if (std::popcount(users_of(id)) > 1) return {id, 1};
    return {id, above_ceiling ? blocks : blocks_given(giver, others, blocks)};
  }
}

// The one that asks would have to give, and has nothing: it wants so little that somebody else
// gives, or that it fits. False: nobody else does.
bool TenantPolicy::want_less(Users others) noexcept {
  const uint64_t free = num_blocks_ - held_blocks_, room = room_for(asking_);
  if (room < wanted_) {
    wanted_ = room;
    return true;
  }
  const Giver next = next_giver(others & ~bit(asking_));
  if (next.excess == 0) return false;
  uint64_t high = wanted_ - 1;
  wanted_ = free;
  while (wanted_ < high) {
    uint64_t middle = high - (high - wanted_) / 2;
    if (precedes(next, giver_with(asking_, middle, 0))) {
      wanted_ = middle;
    } else {
      high = middle - 1;
    }
  }
  return true;
}

// A block that another user keeps is passed on to the first of them. False: it leaves.
bool TenantPolicy::pass_on(SpanId id, uint32_t giver, bool crowded) noexcept {
  uint32_t keeper = giver;
  for_each_bit(users_of(id) & ~bit(giver), [&](uint32_t tenant) {
    const Tenant& user = tenants_[tenant];
    bool keeps = user.used <= (crowded ? user.guarantee : user.ceiling);
    if (keeps && keeper == giver) keeper = tenant;
  });
  if (keeper == giver) return false;
  path_.clear();
  for (SpanId at = id; at != kRootSpan; at = table_[at].parent) {
    if (!table_[at].vacant) path_.push_back(at);
  }
  std::ranges::reverse(path_);
  for (SpanId at : path_) {
    if (table_[at].tenant == giver) set_users(at, (users_of(at) | bit(keeper)) & ~bit(giver));
  }
  take_over(path_, keeper);
  order_of(keeper).touch(path_, {nobody_, now_us_});
  order_of(keeper).released(id);
  return true;
}

void TenantPolicy::lose(SpanId id, uint32_t blocks) noexcept {
  Users& users = users_of(id);
  for_each_part(users, blocks, [](uint64_t& used, uint64_t parts) { used -= parts; });
  held_blocks_ -= blocks;
  tenants_[table_[id].tenant].ordered_blocks -= blocks;
  if (blocks == table_[id].length) users = 0;
}

void TenantPolicy::evict(SpanId id, uint32_t blocks) noexcept {
  lose(id, blocks);
  tenants_[table_[id].tenant].evicted_blocks += blocks;
  order_of(table_[id].tenant).evict(id, blocks);
}

void TenantPolicy::withdraw(SpanId id, uint32_t blocks) noexcept {
  lose(id, blocks);
  order_of(table_[id].tenant).withdraw(id, blocks);
}

void TenantPolicy::released(SpanId id) noexcept { order_of(table_[id].tenant).released(id); }

size_t TenantPolicy::bytes() const noexcept {
  size_t bytes = users_.bytes();
  for (const Tenant& tenant : tenants_) bytes += tenant.order ? tenant.order->bytes() : 0;
  return bytes;
}

void TenantPolicy::check_invariants() const {
  std::vector<uint64_t> used(tenants_.size());
  std::vector<uint32_t> ordered(tenants_.size());
  uint64_t held_blocks = 0;
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    const Users users = index_of(id) < users_.size() ? users_[index_of(id)] : 0;
    KV_INVARIANT(span.vacant == (users == 0));
    KV_INVARIANT(span.vacant || (users & bit(span.tenant)) != 0);
    if (span.vacant) return;
    held_blocks += span.length;
    ordered[span.tenant] += span.length;
    for_each_bit(users,
                 [&](uint32_t tenant) { used[tenant] += span.length * part_of(users, tenant); });
  });
  KV_INVARIANT(held_blocks == held_blocks_);
  uint64_t charged = 0;
  for (uint32_t i = 0; i < tenants_.size(); ++i) {
    KV_INVARIANT(used[i] == tenants_[i].used && ordered[i] == tenants_[i].ordered_blocks);
    charged += used[i];
    if (tenants_[i].order == nullptr) continue;
    BlockTable::Shown only(table_, static_cast<uint8_t>(i), {});
    tenants_[i].order->check_invariants();
  }
  KV_INVARIANT(charged == held_blocks * kBlock);
}

}  // namespace kvcore
