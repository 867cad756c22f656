#include "copy/cuda/cuda_transfer.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "common/check.h"
#include "copy/cuda/kernels.h"
#include "copy/cuda/pointer_place.h"

namespace kvcore {
namespace {

constexpr std::chrono::microseconds kFirstNap{10};
constexpr std::chrono::microseconds kLongestNap{100};

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

// Steps may end on two streams, so the last one's event alone does not do.
bool have_passed(const std::vector<Event>& events) {
  return std::ranges::none_of(events, [](const Event& event) { return event.is_pending(); });
}

// An event cannot be waited for until a time, so this asks, at growing distances.
template <typename IsOver>
bool wait_until(std::chrono::steady_clock::time_point until, IsOver is_over) {
  for (auto nap = kFirstNap; !is_over(); nap = std::min(2 * nap, kLongestNap)) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= until) return false;
    std::this_thread::sleep_for(std::min<std::chrono::steady_clock::duration>(nap, until - now));
  }
  return true;
}

}  // namespace

void CudaHandle::hold(cudaStream_t stream, uint32_t layer) const {
  DeviceGuard guard(device_);
  (*events_)[layer / layers_a_step_].hold(stream);
}

bool CudaHandle::is_done() const {
  BesideCaptures beside;
  DeviceGuard guard(device_);
  return have_passed(*events_);
}

bool CudaHandle::wait(std::chrono::steady_clock::time_point until) const {
  return wait_until(until, [this] { return is_done(); });
}

bool CudaHandle::wait_layer(uint32_t layer, std::chrono::steady_clock::time_point until) const {
  return wait_until(until, [this, layer] {
    BesideCaptures beside;
    DeviceGuard guard(device_);
    return !(*events_)[layer / layers_a_step_].is_pending();
  });
}

CudaTransfer::CudaTransfer(std::shared_ptr<CudaDevice> device, TransferPlan plan,
                           std::optional<DevicePath> path, uint32_t max_thread_blocks)
    : device_(std::move(device)), plan_(std::move(plan)) {
  BesideCaptures beside;
  DeviceGuard guard(device_->number());
  find_places();
  choose(path, max_thread_blocks);
  if (plan_.num_blocks() == 0) return;
  upload();
  if (path_ == DevicePath::kBatch) batched_.emplace(pieces_of(plan_.view()));
  if (path_ == DevicePath::kStaged) {
    staged_.emplace(device_, plan_.num_blocks(), plan_.layout().run_bytes());
  }
}

CudaTransfer::~CudaTransfer() {
  try {
    BesideCaptures beside;
    DeviceGuard guard(device_->number());
    for (const auto& set : events_) {
      for (const Event& event : *set) cudaEventSynchronize(event.get());
    }
    staged_.reset();
    arrays_.reset();
  } catch (const CudaError&) {
    // The device is gone, and all that was on it.
  }
}

void CudaTransfer::find_places() {
  using Kind = PointerPlace::Kind;
  const PagedLayout& layout = plan_.layout();
  for (uint64_t base : layout.plane_bases()) {
    for (uint64_t address : {base, base + layout.plane_bytes() - 1}) {
      const PointerPlace place = place_of(address);
      if (place.kind != Kind::kDevice || place.device != device()) {
        refuse("layers must lie in the memory of CUDA device " + std::to_string(device()) +
               ", got " + describe(place));
      }
    }
  }
  const SlabSpan& slab = plan_.slab();
  // Of the last block only what is copied need be there.
  const uint64_t slab_bytes =
      (slab.num_blocks - 1) * slab.block_bytes + layout.num_planes() * layout.run_bytes();
  const PointerPlace place = place_of(slab.data);
  slab_alias_ = place.alias;
  for (const PointerPlace& end : {place, place_of(slab.data + slab_bytes - 1)}) {
    const bool usable =
        end.kind == Kind::kPinned || (end.kind == Kind::kDevice && end.device == device());
    if (!usable || end.kind != place.kind) {
      refuse("slab must lie in the memory of CUDA device " + std::to_string(device()) +
             " or in pinned host memory, got " + describe(end));
    }
  }
  host_slab_ = place.kind == Kind::kPinned;
}

void CudaTransfer::choose(std::optional<DevicePath> path, uint32_t max_thread_blocks) {
  CopyView seen = plan_.view();
  seen.slab = slab_alias_;
  word_bytes_ = word_bytes_of(seen);
  const CopyTraits traits{.bytes = plan_.bytes(),
                          .run_bytes = plan_.layout().run_bytes(),
                          .word_bytes = word_bytes_,
                          .host_slab = host_slab_,
                          .has_bulk = device_->has_bulk()};
  path_ = path.value_or(choose_path(traits));
  if (!is_possible(path_, traits)) {
    refuse("path must be one that can do this copy, got '" + std::string(name_of(path_)) +
           (path_ == DevicePath::kBulk
                ? "', which needs 16-byte alignment and compute capability 9.0 or newer"
                : "', which needs a slab in pinned host memory"));
  }
  const uint32_t most =
      host_slab_
          ? kThresholds.host_thread_blocks
          : device_->num_multiprocessors() *
                (path_ == DevicePath::kBulk ? 1 : kThresholds.thread_blocks_a_multiprocessor);
  thread_blocks_ = max_thread_blocks == 0 ? most : max_thread_blocks;
}

void CudaTransfer::upload() {
  const CopyView view = plan_.view();
  const size_t bases_bytes = view.num_planes * sizeof(uint64_t);
  const size_t blocks_bytes = view.num_blocks * sizeof(uint32_t);
  std::vector<std::byte> all(bases_bytes + 2 * blocks_bytes);
  std::memcpy(all.data(), view.plane_bases, bases_bytes);
  std::memcpy(all.data() + bases_bytes, view.paged_blocks, blocks_bytes);
  std::memcpy(all.data() + bases_bytes + blocks_bytes, view.slab_blocks, blocks_bytes);
  arrays_.emplace(device_, all.size());
  arrays_->write(0, all.data(), all.size());
}

CopyView CudaTransfer::device_view(uint32_t first_layer, uint32_t num_layers) const noexcept {
  CopyView view = plan_.view(first_layer, num_layers);
  const auto* bases = reinterpret_cast<const uint64_t*>(arrays_->data());
  const auto* blocks = reinterpret_cast<const uint32_t*>(bases + plan_.layout().num_planes());
  view.plane_bases = bases + first_layer * plan_.layout().planes_a_layer();
  view.paged_blocks = blocks;
  view.slab_blocks = blocks + view.num_blocks;
  view.slab += slab_alias_ - plan_.slab().data;
  return view;
}

// A set that has passed and that no handle has any more, so that in the long run no copy makes new
// ones. What is not done stays here, so that we know it when we die.
std::shared_ptr<std::vector<Event>> CudaTransfer::unused_events(size_t count) {
  auto is_free = [](const auto& set) { return set.use_count() == 1 && have_passed(*set); };
  for (auto& set : events_) {
    if (set->size() == count && is_free(set)) return set;
  }
  std::erase_if(events_, is_free);
  return events_.emplace_back(std::make_shared<std::vector<Event>>(count));
}

std::unique_ptr<CudaHandle> CudaTransfer::copy(Direction direction, cudaStream_t stream,
                                               uint32_t layers_a_step) {
  const uint32_t num_layers = plan_.layout().num_layers();
  KV_CHECK(layers_a_step > 0);
  std::lock_guard lock(mutex_);
  BesideCaptures beside;
  DeviceGuard guard(device_->number());
  const bool captured = is_capturing(stream);
  // One ring, one copy at a time, whatever streams they are on.
  if (staged_ && latest_ && !captured) {
    for (const Event& event : *latest_) event.hold(stream);
  }
  const size_t num_steps = (num_layers + layers_a_step - 1) / layers_a_step;
  // Events of a capture never pass, and replays are no business of ours.
  auto events =
      captured ? std::make_shared<std::vector<Event>>(num_steps) : unused_events(num_steps);
  if (staged_) staged_->begin(stream);
  for (uint32_t first = 0, step = 0; first < num_layers; first += layers_a_step, ++step) {
    const uint32_t layers = std::min(layers_a_step, num_layers - first);
    (*events)[step].record(enqueue(direction, first, layers, stream));
  }
  if (staged_) staged_->join(stream);
  if (!captured) latest_ = events;
  return std::make_unique<CudaHandle>(std::move(events), device(), num_layers, layers_a_step);
}

// Returns the stream on which these layers are complete.
cudaStream_t CudaTransfer::enqueue(Direction direction, uint32_t first_layer, uint32_t num_layers,
                                   cudaStream_t stream) {
  if (plan_.num_blocks() == 0) return stream;
  const CopyView view = device_view(first_layer, num_layers);
  if (staged_) {
    return staged_->enqueue(view, plan_.view(first_layer, num_layers), direction, word_bytes_,
                            thread_blocks_, stream);
  }
  if (batched_ && !is_capturing(stream)) {
    const uint32_t first_plane = first_layer * plan_.layout().planes_a_layer();
    batched_->enqueue(direction, first_plane, view.num_planes, stream);
  } else if (path_ == DevicePath::kBulk) {
    check_cuda(launch_bulk(view, direction, thread_blocks_, stream), "bulk kernel");
  } else {
    check_cuda(launch_load_store(view, direction, word_bytes_, thread_blocks_, stream),
               "load/store kernel");
  }
  return stream;
}

}  // namespace kvcore
