#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/tenants_argument.h"

namespace kvcore::bindings {
namespace {

constexpr const char* kQuotaDoc = R"(What a tenant may have of a cache; immutable.

Parameters
----------
guarantee : float
    Share of the cache that others cannot take from it, 0 to 1.
weight : float
    What is above the guarantees is divided by weight, among those who ask for it; 1e-6 to 1e6.
ceiling : float
    Share of the cache that it never brings more than, above 0, at least `guarantee`, at most 1.

Raises
------
TypeError, ValueError
    An argument has the wrong type or is out of range; the message names it.)";

constexpr const char* kStatsDoc = R"(Counts of a tenant at one moment.

tenant (its name), used_blocks (charged to it now; a block that k tenants use is charged 1/k to
each), requested_blocks and hit_blocks (that its calls of `acquire` asked for, and found),
evicted_blocks (that left its order to make room).)";

auto key_of(const TenantQuota& quota) {
  return py::make_tuple(quota.guarantee, quota.weight, quota.ceiling);
}

}  // namespace

TenantQuotas tenants_argument(py::handle object) {
  TenantQuotas quotas;
  if (object.is_none()) return quotas;
  constexpr const char* kAllowed = "tenants must be a dict of names and TenantQuota, got ";
  if (!py::isinstance<py::dict>(object)) throw py::type_error(kAllowed + describe(object));
  for (auto [name, quota] : object.cast<py::dict>()) {
    if (!py::isinstance<TenantQuota>(quota)) throw py::type_error(kAllowed + describe(quota));
    quotas.emplace(string_argument(name, "tenants' names"), quota.cast<TenantQuota>());
  }
  return quotas;
}

void register_tenants(py::module_& module) {
  py::class_<TenantQuota>(module, "TenantQuota", kQuotaDoc)
      .def(py::init([](py::handle guarantee, py::handle weight, py::handle ceiling) {
             TenantQuota quota{number_argument(guarantee, "guarantee"),
                               number_argument(weight, "weight"),
                               number_argument(ceiling, "ceiling")};
             check_quota(quota, "");
             return quota;
           }),
           py::arg("guarantee") = 0.0, py::arg("weight") = 1.0, py::arg("ceiling") = 1.0)
      .def_readonly("guarantee", &TenantQuota::guarantee)
      .def_readonly("weight", &TenantQuota::weight)
      .def_readonly("ceiling", &TenantQuota::ceiling)
      .def("__eq__",
           [](const TenantQuota& self, py::object other) {
             return py::isinstance<TenantQuota>(other) &&
                    key_of(self).equal(key_of(other.cast<const TenantQuota&>()));
           })
      .def("__hash__", [](const TenantQuota& self) { return py::hash(key_of(self)); })
      .def("__repr__", [](const TenantQuota& self) {
        return py::str("TenantQuota(guarantee={}, weight={}, ceiling={})")
            .format(self.guarantee, self.weight, self.ceiling);
      });

  py::class_<TenantStats>(module, "TenantStats", kStatsDoc)
      .def_readonly("tenant", &TenantStats::tenant)
      .def_readonly("used_blocks", &TenantStats::used_blocks)
      .def_readonly("requested_blocks", &TenantStats::requested_blocks)
      .def_readonly("hit_blocks", &TenantStats::hit_blocks)
      .def_readonly("evicted_blocks", &TenantStats::evicted_blocks);
}

}  // namespace kvcore::bindings
