#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/waiting.h"
#include "copy/host_paths.h"

namespace kvcore::bindings {
namespace {

// What a machine can copy at best, for benchmarks: runs at addresses that were worked out before,
// in a loop that does nothing else, on threads that are awake when it begins.
class RawLoop {
 public:
  explicit RawLoop(uint32_t threads) {
    for (uint32_t i = 1; i < threads; ++i) others_.emplace_back([this, i] { serve(i); });
  }
  ~RawLoop() {
    state_ = State::kEnd;
    state_.notify_all();
  }

  // Wakes the other threads, which spin until run().
  void arm() {
    num_ready_ = 0;
    state_ = State::kArmed;
    state_.notify_all();
    while (num_ready_ < others_.size()) std::this_thread::yield();
  }

  void run(std::span<const uint64_t> to, std::span<const uint64_t> from, uint64_t bytes,
           CopyStreams copy) {
    to_ = to;
    from_ = from;
    bytes_ = bytes;
    copy_ = copy;
    num_done_ = 0;
    state_ = State::kGo;
    work(0);
    while (num_done_ < others_.size()) {
    }
    state_ = State::kIdle;
  }

 private:
  enum class State : uint32_t { kIdle, kArmed, kGo, kEnd };

  void serve(uint32_t number) {
    for (;;) {
      state_.wait(State::kIdle);
      if (state_ == State::kEnd) return;
      ++num_ready_;
      while (state_ == State::kArmed) {
      }
      if (state_ == State::kEnd) return;
      work(number);
      ++num_done_;
      while (state_ == State::kGo) {
      }
    }
  }

  void work(uint32_t number) {
    const size_t threads = others_.size() + 1;
    const size_t begin = to_.size() * number / threads, end = to_.size() * (number + 1) / threads;
    for (size_t i = begin; i < end; i += kStreams) {
      std::byte* tos[kStreams];
      const std::byte* froms[kStreams];
      for (size_t k = 0; k < kStreams; ++k) {
        tos[k] = reinterpret_cast<std::byte*>(to_[i + k]);
        froms[k] = reinterpret_cast<const std::byte*>(from_[i + k]);
      }
      copy_(tos, froms, bytes_);
    }
  }

  std::span<const uint64_t> to_, from_;
  uint64_t bytes_ = 0;
  CopyStreams copy_ = nullptr;
  std::atomic<State> state_{State::kIdle};
  std::atomic<size_t> num_ready_{0}, num_done_{0};
  std::vector<std::jthread> others_;
};

// One run after the other by the C library, as a loop over blocks would.
void copy_by_memcpy(std::byte* const* to, const std::byte* const* from, uint64_t bytes) {
  for (uint32_t i = 0; i < kStreams; ++i) std::memcpy(to[i], from[i], bytes);
}

CopyStreams loop_argument(const std::string& name) {
  if (name == "memcpy") return &copy_by_memcpy;
  for (const HostPath& path : native_paths()) {
    if (name == std::string(path.name) + " cached") return path.cached;
    if (name == std::string(path.name) + " streamed") return path.streamed;
  }
  throw py::value_error("there is no loop '" + name + "' on this machine");
}

std::span<const uint64_t> addresses(const Buffer& buffer) {
  return {static_cast<const uint64_t*>(buffer.view().buf),
          static_cast<size_t>(buffer.view().len) / sizeof(uint64_t)};
}

}  // namespace

void register_raw_loop(py::module_& module) {
  py::class_<RawLoop>(module, "RawLoop", "For `kvcore bench copy`: the limit of the machine.")
      .def(py::init<uint32_t>(), py::arg("threads"))
      .def_static("names",
                  [] {
                    py::list names;
                    names.append("memcpy");
                    for (const HostPath& path : native_paths()) {
                      names.append(std::string(path.name) + " cached");
                      names.append(std::string(path.name) + " streamed");
                    }
                    return names;
                  })
      .def("arm", &RawLoop::arm, py::call_guard<Waiting>())
      .def(
          "run",
          [](RawLoop& self, const std::string& name, py::handle to, py::handle from,
             uint64_t bytes) {
            const Buffer to_buffer(to, "to", "uint64[n]"), from_buffer(from, "from", "uint64[n]");
            const CopyStreams copy = loop_argument(name);
            if (addresses(to_buffer).size() != addresses(from_buffer).size() ||
                addresses(to_buffer).size() % kStreams != 0) {
              throw py::value_error("to and from must be alike, a multiple of " +
                                    std::to_string(kStreams) + " addresses");
            }
            const Waiting waiting;
            self.run(addresses(to_buffer), addresses(from_buffer), bytes, copy);
          },
          py::arg("name"), py::arg("to"), py::arg("from_"), py::arg("bytes"));
}

}  // namespace kvcore::bindings
