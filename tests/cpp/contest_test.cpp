#include "evict/contest.h"

#include <random>
#include <vector>

#include "chains.h"
#include "doctest/doctest.h"
#include "evict/shadow_cache.h"

namespace kvcore {
namespace {

TEST_CASE("a shadow cache finds what it has room for, whatever the policy") {
  for (std::string_view policy : policy_names()) {
    CAPTURE(policy);
    ShadowCache cache(policy, 200);
    std::mt19937 random(1);
    std::vector<std::vector<BlockHash>> chains;
    for (int i = 0; i < 2000; ++i) {
      RequestInfo request;
      Use use{request, i * 1'000'000};
      std::vector<BlockHash> chain;
      if (!chains.empty() && random() % 2 == 0) chain = chains[random() % chains.size()];
      chain.resize(chain.size() - random() % (chain.size() / 4 + 1));
      for (uint32_t more = random() % 20; more > 0; --more) {
        BlockHash hash;
        for (uint8_t& byte : hash.bytes) byte = static_cast<uint8_t>(random());
        chain.push_back(hash);
      }
      uint32_t found = cache.serve(chain, use);
      CHECK(found <= chain.size());
      if (i % 3 != 0) cache.finish(use, random() % 1000);
      cache.check_invariants();
      chains.push_back(chain);
      if (chains.size() > 30) chains.erase(chains.begin());
    }
  }
}

}  // namespace
}  // namespace kvcore
