#include "evict/policy.h"

namespace kvcore {

using PolicyFactory = std::unique_ptr<EvictionPolicy>(BlockTable& table, uint32_t num_blocks);

// A new policy is its own file and a line in each of these two lists.
PolicyFactory make_lru, make_arc;
constexpr std::string_view kPolicyNames = "lru, arc";

std::unique_ptr<EvictionPolicy> make_policy(std::string_view name, BlockTable& table,
                                            uint32_t num_blocks) {
  struct Entry {
    std::string_view name;
    PolicyFactory* make;
  };
  static constexpr Entry kPolicies[] = {{"lru", make_lru}, {"arc", make_arc}};
  for (const Entry& entry : kPolicies) {
    if (entry.name == name) return entry.make(table, num_blocks);
  }
  return nullptr;
}

std::string_view policy_names() { return kPolicyNames; }

}  // namespace kvcore
