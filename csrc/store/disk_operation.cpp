#include "store/disk_operation.h"

#include <algorithm>
#include <cstring>
#include <span>

namespace kvcore {

uint64_t DiskOperation::Io::bytes() const noexcept {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < num_parts; ++i) sum += parts[i].iov_len;
  return sum;
}

DiskOperation::DiskOperation(const DiskFiles& files, const Fingerprint& fingerprint,
                             uint64_t value_bytes, bool syncs)
    : files_(files), fingerprint_(fingerprint), value_bytes_(value_bytes), syncs_(syncs) {}

void DiskOperation::begin(const SlotTask& task) {
  task_ = task;
  must_sync_ = false;
  expected_bytes_ = 0;
  outcome_ = Outcome::kFailed;
  if (!has_memory()) {
    step_ = Step::kFail;
    return;
  }
  std::memset(page_.get(), 0, kPageBytes);
  switch (task.kind) {
    case SlotTask::Kind::kRead:
      step_ = Step::kRead;
      break;
    case SlotTask::Kind::kWrite:
      step_ = task.is_used ? Step::kErase : Step::kWriteValue;
      break;
    case SlotTask::Kind::kWipe:
      step_ = Step::kErase;
      break;
  }
}

const DiskOperation::Io* DiskOperation::next(int64_t result) {
  if (has_failed(result)) return end(Outcome::kFailed);
  if (must_sync_) {
    must_sync_ = false;
    expected_bytes_ = 0;
    io_ = {.kind = Io::Kind::kSync, .fd = files_.place_of(task_.slot).fd};
    return &io_;
  }
  switch (step_) {
    case Step::kRead:
      step_ = Step::kVerify;
      set_page_io(Io::Kind::kRead);
      io_.parts[io_.num_parts++] = value_part();
      break;
    case Step::kVerify: {
      // A file that ends too early has lost what it had.
      if (static_cast<uint64_t>(result) < kPageBytes + value_bytes_) return end(Outcome::kCorrupt);
      const std::span value(task_.memory, value_bytes_);
      if (!goes_straight()) std::memcpy(value.data(), bounce_.get(), value.size());
      const ConstEnvelopeSpan envelope(page_.get(), kEnvelopeBytes);
      return end(verify(envelope, fingerprint_, task_.hash, value) ? Outcome::kDone
                                                                   : Outcome::kCorrupt);
    }
    case Step::kErase:
      step_ = task_.kind == SlotTask::Kind::kWipe ? Step::kEnd : Step::kWriteValue;
      set_page_io(Io::Kind::kWrite);
      break;
    case Step::kWriteValue:
      step_ = Step::kWritePage;
      io_ = {.kind = Io::Kind::kWrite,
             .fd = files_.place_of(task_.slot).fd,
             .offset = files_.place_of(task_.slot).offset + kPageBytes,
             .parts = {value_part()},
             .num_parts = 1};
      if (!goes_straight()) std::memcpy(bounce_.get(), task_.memory, value_bytes_);
      break;
    case Step::kWritePage:
      step_ = Step::kEnd;
      seal(EnvelopeSpan(page_.get(), kEnvelopeBytes), fingerprint_, task_.hash,
           std::span(task_.memory, value_bytes_));
      set_page_io(Io::Kind::kWrite);
      break;
    case Step::kEnd:
      return end(Outcome::kDone);
    case Step::kFail:
      return end(Outcome::kFailed);
  }
  must_sync_ = syncs_ && io_.kind == Io::Kind::kWrite;
  expected_bytes_ = io_.kind == Io::Kind::kWrite ? io_.bytes() : 0;
  return &io_;
}

// A read that is short is for the next step to judge.
bool DiskOperation::has_failed(int64_t result) noexcept {
  return result < 0 || static_cast<uint64_t>(result) < expected_bytes_;
}

const DiskOperation::Io* DiskOperation::end(Outcome outcome) noexcept {
  outcome_ = outcome;
  step_ = Step::kEnd;
  must_sync_ = false;
  expected_bytes_ = 0;
  return nullptr;
}

void DiskOperation::set_page_io(Io::Kind kind) noexcept {
  const DiskFiles::Place place = files_.place_of(task_.slot);
  io_ = {.kind = kind,
         .fd = place.fd,
         .offset = place.offset,
         .parts = {iovec{page_.get(), kPageBytes}},
         .num_parts = 1};
}

iovec DiskOperation::value_part() const noexcept {
  if (goes_straight()) return {task_.memory, value_bytes_};
  return {bounce_.get(), files_.slot_bytes() - kPageBytes};
}

// Whether there is the memory that the task takes.
bool DiskOperation::has_memory() noexcept {
  auto get = [](Pages& pages, uint64_t bytes) {
    if (pages != nullptr) return true;
    pages.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes)));
    if (pages != nullptr) std::memset(pages.get(), 0, bytes);
    return pages != nullptr;
  };
  const bool bounces = task_.kind != SlotTask::Kind::kWipe && !goes_straight();
  return get(page_, kPageBytes) && (!bounces || get(bounce_, files_.slot_bytes() - kPageBytes));
}

bool DiskOperation::goes_straight() const noexcept {
  return !files_.is_direct() || (reinterpret_cast<uint64_t>(task_.memory) % kPageBytes == 0 &&
                                 value_bytes_ % kPageBytes == 0);
}

}  // namespace kvcore
