#include "evict/policy.h"

namespace kvcore {

using PolicyFactory = std::unique_ptr<EvictionPolicy>(BlockTable& table, uint32_t num_blocks);
PolicyFactory make_lru, make_fifo, make_slru, make_sieve, make_s3fifo, make_lfu, make_lru2, make_mq,
    make_wtinylfu, make_tlru, make_arc, make_hazard, make_auto;

namespace {

struct Entry {
  std::string_view name;
  PolicyFactory* make;
};

// A new policy is its own file, its make_ function above, and a line here.
constexpr Entry kPolicies[] = {
    {"lru", make_lru},           {"fifo", make_fifo}, {"slru", make_slru}, {"sieve", make_sieve},
    {"s3fifo", make_s3fifo},     {"lfu", make_lfu},   {"lru2", make_lru2}, {"mq", make_mq},
    {"wtinylfu", make_wtinylfu}, {"tlru", make_tlru}, {"arc", make_arc},   {"hazard", make_hazard},
    {"auto", make_auto},
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_policy(std::string_view name, BlockTable& table,
                                            uint32_t num_blocks) {
  for (const Entry& entry : kPolicies) {
    if (entry.name == name) return entry.make(table, num_blocks);
  }
  return nullptr;
}

std::vector<std::string_view> policy_names() {
  std::vector<std::string_view> names;
  for (const Entry& entry : kPolicies) names.push_back(entry.name);
  return names;
}

}  // namespace kvcore
