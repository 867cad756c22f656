#include "copy/device_path.h"

#include <algorithm>
#include <vector>

#include "doctest/doctest.h"

namespace kvcore {
namespace {

TEST_CASE("the widest word divides all addresses and sizes") {
  const std::vector<uint64_t> aligned = {0x1000, 0x2000}, odd = {0x1000, 0x2001};
  CopyView view{.plane_bases = aligned.data(),
                .paged_blocks = nullptr,
                .slab_blocks = nullptr,
                .slab = 0x4000,
                .paged_stride = 64,
                .slab_stride = 128,
                .run_bytes = 48,
                .num_planes = 2,
                .num_blocks = 1};
  CHECK(word_bytes_of(view) == 16);
  auto with = [&](uint64_t CopyView::*member, uint64_t value) {
    CopyView changed = view;
    changed.*member = value;
    return word_bytes_of(changed);
  };
  CHECK(with(&CopyView::run_bytes, 40) == 4);
  CHECK(with(&CopyView::run_bytes, 46) == 1);
  CHECK(with(&CopyView::slab, 0x4004) == 4);
  CHECK(with(&CopyView::slab_stride, 129) == 1);
  CHECK(with(&CopyView::paged_stride, 68) == 4);
  view.plane_bases = odd.data();
  CHECK(word_bytes_of(view) == 1);
}

TEST_CASE("pieces are the runs of each plane, neighbours as one") {
  const std::vector<uint64_t> bases = {1000, 5000};
  const std::vector<uint32_t> paged = {3, 4, 5, 9}, slab = {0, 1, 2, 3};
  CopyView view{.plane_bases = bases.data(),
                .paged_blocks = paged.data(),
                .slab_blocks = slab.data(),
                .slab = 90000,
                .paged_stride = 10,
                .slab_stride = 20,
                .run_bytes = 10,
                .num_planes = 2,
                .num_blocks = 4};
  const Pieces apart = pieces_of(view);  // another plane's run lies between in the slab
  CHECK(apart.first_of_plane == std::vector<size_t>{0, 4, 8});
  CHECK(apart.all.size() == 8);
  CHECK(apart.all[5].paged == 5040);
  CHECK(apart.all[5].slab == 90030);
  CHECK(apart.all[5].bytes == 10);

  view.num_planes = 1;
  view.slab_stride = 10;
  const Pieces together = pieces_of(view);
  CHECK(together.first_of_plane == std::vector<size_t>{0, 2});
  CHECK(together.all[0].paged == 1030);
  CHECK(together.all[0].bytes == 30);
  CHECK(together.all[1].paged == 1090);
  CHECK(together.all[1].slab == 90030);
  CHECK(together.all[1].bytes == 10);
}

TEST_CASE("chunks cover each run once and fit their slots") {
  for (uint32_t num_planes : {1u, 2u, 64u}) {
    for (uint32_t num_blocks : {0u, 1u, 7u, 300u}) {
      for (uint64_t run_bytes : {1u, 100u, 1000u, 100000u}) {
        for (auto [first_bytes, chunk_bytes] : {std::pair{1000u, 8000u}, {10u, 70000u}, {1u, 1u}}) {
          std::vector<int> seen(size_t{num_planes} * num_blocks);
          bool is_first = true;
          for (const Chunk& chunk :
               chunks_of(num_planes, num_blocks, run_bytes, first_bytes, chunk_bytes)) {
            const uint64_t runs = uint64_t{chunk.num_planes} * chunk.num_blocks;
            REQUIRE(runs * run_bytes <=
                    std::max<uint64_t>(is_first ? first_bytes : chunk_bytes, run_bytes));
            REQUIRE((chunk.num_planes == num_planes || chunk.num_blocks == 1));
            is_first = false;
            for (uint32_t block = 0; block < chunk.num_blocks; ++block) {
              for (uint32_t plane = 0; plane < chunk.num_planes; ++plane) {
                ++seen[(chunk.first_block + block) * num_planes + chunk.first_plane + plane];
              }
            }
          }
          CHECK(std::ranges::count(seen, 1) == static_cast<long>(seen.size()));
        }
      }
    }
  }
}

TEST_CASE("a path is chosen by place and size, and can do the copy") {
  const uint64_t large = kThresholds.zero_copy_bytes + 1, long_run = kThresholds.batch_run_bytes;
  auto choice = [](CopyTraits traits) {
    const DevicePath path = choose_path(traits);
    CHECK(is_possible(path, traits));
    return path;
  };
  CHECK(choice({large, long_run, 16, false, true}) == DevicePath::kLoadStore);
  CHECK(choice({large, long_run, 16, true, true}) == DevicePath::kBatch);
  CHECK(choice({large, long_run - 1, 16, true, true}) == DevicePath::kStaged);
  CHECK(choice({1000, 100, 16, true, true}) == DevicePath::kBulk);
  CHECK(choice({1000, 100, 4, true, true}) == DevicePath::kLoadStore);
  CHECK(choice({1000, 100, 16, true, false}) == DevicePath::kLoadStore);
  CHECK(!is_possible(DevicePath::kStaged, {large, long_run, 16, false, true}));
  CHECK(!is_possible(DevicePath::kBulk, {large, long_run, 4, false, true}));
  for (auto path :
       {DevicePath::kLoadStore, DevicePath::kBulk, DevicePath::kBatch, DevicePath::kStaged}) {
    CHECK(parse_device_path(name_of(path)) == path);
  }
  CHECK(!parse_device_path("auto"));
}

}  // namespace
}  // namespace kvcore
