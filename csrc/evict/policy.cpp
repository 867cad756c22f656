#include "evict/policy.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>

namespace kvcore {

using PolicyFactory = std::unique_ptr<EvictionPolicy>(BlockTable& table, uint32_t num_blocks);
PolicyFactory make_lru, make_fifo, make_slru, make_sieve, make_s3fifo, make_lfu, make_lru2, make_mq,
    make_wtinylfu, make_tlru, make_arc, make_hazard, make_auto;

std::unique_ptr<EvictionPolicy> make_auto_of(BlockTable& table, uint32_t num_blocks,
                                             std::vector<std::string> contenders);

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

constexpr std::string_view kAuto = "auto", kAutoOf = "auto:";

const Entry* find_policy(std::string_view name) {
  const Entry* entry = std::ranges::find(kPolicies, name, &Entry::name);
  return entry == std::end(kPolicies) ? nullptr : entry;
}

// The policies of "auto:lru+hazard"; none, unless all are known and different, and none is auto.
std::vector<std::string> contenders_of(std::string_view list) {
  std::vector<std::string> names;
  for (size_t begin = 0; begin <= list.size();) {
    size_t end = std::min(list.find('+', begin), list.size());
    std::string_view name = list.substr(begin, end - begin);
    if (name == kAuto || find_policy(name) == nullptr) return {};
    if (std::ranges::find(names, name) != names.end()) return {};
    names.emplace_back(name);
    begin = end + 1;
  }
  return names;
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_policy(std::string_view name, BlockTable& table,
                                            uint32_t num_blocks) {
  if (const Entry* entry = find_policy(name)) return entry->make(table, num_blocks);
  if (!name.starts_with(kAutoOf)) return nullptr;
  std::vector<std::string> contenders = contenders_of(name.substr(kAutoOf.size()));
  if (contenders.empty()) return nullptr;
  return make_auto_of(table, num_blocks, std::move(contenders));
}

void check_policy(std::string_view name) {
  if (find_policy(name) != nullptr) return;
  if (name.starts_with(kAutoOf) && !contenders_of(name.substr(kAutoOf.size())).empty()) return;
  std::string names;
  for (const Entry& entry : kPolicies) names.append(entry.name).append(", ");
  throw std::invalid_argument("policy must be one of " + names +
                              "or auto: and some of these with + between them, got \"" +
                              std::string(name) + "\"");
}

std::vector<std::string_view> policy_names() {
  std::vector<std::string_view> names;
  for (const Entry& entry : kPolicies) names.push_back(entry.name);
  return names;
}

}  // namespace kvcore
