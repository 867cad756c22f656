#include "bindings/plan_argument.h"
#include "bindings/register.h"
#include "copy/device_path.h"

namespace kvcore::bindings {

void register_plan(py::module_& module) {
  module.def(
      "plan_word_bytes",
      [](const py::kwargs& numbers) {
        const TransferPlan plan = plan_argument(numbers);
        return word_bytes_of(plan.view());
      },
      "Checks the numbers of a plan; the widest of 16, 4 and 1 bytes that divides all addresses "
      "and sizes.");
}

}  // namespace kvcore::bindings
