#include <chrono>
#include <stdexcept>
#include <string>

#include "bindings/arguments.h"
#include "bindings/plan_argument.h"
#include "bindings/register.h"
#include "bindings/waiting.h"
#include "copy/copy_pool.h"
#include "copy/quantize_path.h"

namespace kvcore::bindings {
namespace {

std::shared_ptr<CopyJob> start(CopyPool& self, std::shared_ptr<TransferPlan> plan,
                               Direction direction) {
  return self.start(std::move(plan), direction);
}

uint32_t layer_argument(const CopyJob& self, py::handle layer) {
  return static_cast<uint32_t>(integer_argument(layer, "layer", 0, self.num_layers() - 1));
}

// Nobody has it any more: what has not begun is given up, and the memory is free after this.
void abandon(CopyJob* job) {
  job->cancel();
  job->wait(CopyJob::Clock::time_point::max());
}

// What a handle of Python owns: a job that is over when the handle goes. A forked child has no
// thread that would end it.
class OwnedJob {
 public:
  explicit OwnedJob(std::shared_ptr<CopyJob> job) : job_(std::move(job)) {}
  OwnedJob(OwnedJob&&) = default;
  ~OwnedJob() {
    if (job_ == nullptr) return;
    if (home_.is_here()) {
      abandon(job_.get());
    } else {
      new std::shared_ptr(std::move(job_));
    }
  }
  CopyJob& get() const {
    if (!home_.is_here()) {
      throw std::runtime_error("a copy that another process has under way can not be used here");
    }
    return *job_;
  }

 private:
  Home home_;
  std::shared_ptr<CopyJob> job_;
};

FloatType float_type_argument(py::handle object) {
  const std::string name = string_argument(object, "dtype");
  if (name == "bfloat16") return FloatType::kBfloat16;
  if (name == "float16") return FloatType::kFloat16;
  if (name == "float32") return FloatType::kFloat32;
  throw py::value_error("dtype must be 'bfloat16', 'float16' or 'float32', got " +
                        describe(object));
}

const QuantizePath& path_argument(py::handle object) {
  if (object.is_none()) return quantize_path();
  const std::string name = string_argument(object, "path");
  for (const QuantizePath* path : quantize_paths()) {
    if (path->name == name) return *path;
  }
  throw py::value_error("path must be one of codec_paths(), got " + describe(object));
}

uint64_t count_argument(py::handle object, const char* name) {
  return static_cast<uint64_t>(integer_argument(object, name, 1, int64_t{1} << 40));
}

void register_codecs(py::module_& module) {
  py::class_<RunCodec, std::shared_ptr<RunCodec>>(module, "RunCodec",
                                                  "kvcore.codecs has what is for users.")
      .def_property_readonly("slab_bytes", &RunCodec::slab_bytes);
  module.def("transpose_codec",
             [](py::handle run_bytes, py::handle rows, py::handle columns,
                py::handle cell_bytes) -> std::shared_ptr<RunCodec> {
               return make_transpose(
                   count_argument(run_bytes, "run_bytes"), count_argument(rows, "rows"),
                   count_argument(columns, "columns"), count_argument(cell_bytes, "cell_bytes"));
             });
  module.def(
      "fp8_codec",
      [](py::handle run_bytes, py::handle dtype, py::handle group,
         py::handle path) -> std::shared_ptr<RunCodec> {
        return make_fp8(count_argument(run_bytes, "run_bytes"), float_type_argument(dtype),
                        count_argument(group, "group"), path_argument(path));
      },
      py::arg("run_bytes"), py::arg("dtype"), py::arg("group"), py::arg("path") = py::none());
  module.def(
      "int8_codec",
      [](py::handle run_bytes, py::handle dtype, py::handle rows, py::handle channels,
         py::handle path) -> std::shared_ptr<RunCodec> {
        return make_int8(count_argument(run_bytes, "run_bytes"), float_type_argument(dtype),
                         count_argument(rows, "rows"), count_argument(channels, "channels"),
                         path_argument(path));
      },
      py::arg("run_bytes"), py::arg("dtype"), py::arg("rows"), py::arg("channels"),
      py::arg("path") = py::none());
  module.def(
      "codec_paths",
      [] {
        py::list names;
        for (const QuantizePath* path : quantize_paths()) names.append(path->name);
        return names;
      },
      "How this machine's CPU can convert floats, the fastest first.");
}

}  // namespace

void register_copy(py::module_& module) {
  register_codecs(module);
  py::class_<TransferPlan, std::shared_ptr<TransferPlan>>(
      module, "Plan", py::is_final(), "Which blocks belong together; kvcore.copies has the rest.")
      .def(py::init([](std::shared_ptr<RunCodec> codec, const py::kwargs& numbers) {
             return std::make_shared<TransferPlan>(plan_argument(numbers, std::move(codec)));
           }),
           py::arg("codec").none(true))
      .def_property_readonly("bytes", &TransferPlan::bytes)
      .def_property_readonly("num_blocks", &TransferPlan::num_blocks)
      .def(
          "copy",
          [](std::shared_ptr<TransferPlan> self, bool gathers) {
            const Waiting waiting;
            copy_here(std::move(self), gathers ? Direction::kGather : Direction::kScatter);
          },
          py::arg("gathers"));

  py::class_<OwnedJob>(module, "CopyJob", py::is_final(), py::release_gil_before_calling_cpp_dtor(),
                       "A copy under way.")
      .def("done", [](const OwnedJob& self) { return self.get().is_done(); })
      .def("failed", [](const OwnedJob& self) { return self.get().has_failed(); })
      .def(
          "wait",
          [](const OwnedJob& self, py::handle timeout_s) {
            const auto until = deadline_argument(timeout_s);
            const Waiting waiting;
            return self.get().wait(until);
          },
          py::arg("timeout_s"))
      .def(
          "wait_layer",
          [](const OwnedJob& self, py::handle layer, py::handle timeout_s) {
            const uint32_t number = layer_argument(self.get(), layer);
            const auto until = deadline_argument(timeout_s);
            const Waiting waiting;
            return self.get().wait_layer(number, until);
          },
          py::arg("layer"), py::arg("timeout_s"))
      .def("cancel", [](const OwnedJob& self) { self.get().cancel(); });

  py::class_<CopyPool>(module, "CopyThreads", py::is_final(),
                       py::release_gil_before_calling_cpp_dtor(), "Threads that copy.")
      .def(py::init([](py::handle threads) {
             const auto count = integer_argument(threads, "threads", 1, 64);
             const Waiting waiting;
             return std::make_unique<CopyPool>(static_cast<uint32_t>(count));
           }),
           py::arg("threads"))
      .def_property_readonly("num_threads", &CopyPool::num_threads)
      // The job waits for its end before its owner, the memory of both sides, is let go.
      .def(
          "start",
          [](CopyPool& self, std::shared_ptr<TransferPlan> plan, bool gathers, py::handle) {
            return std::make_unique<OwnedJob>(
                start(self, std::move(plan), gathers ? Direction::kGather : Direction::kScatter));
          },
          py::arg("plan"), py::arg("gathers"), py::arg("owner"), py::keep_alive<0, 4>(),
          py::keep_alive<0, 1>());
  module.def(
      "cpu_path", [] { return std::string(host_path().name); }, "How this machine's CPU copies.");
}

}  // namespace kvcore::bindings
