#pragma once

#include <pybind11/pybind11.h>

#include "cache/tenants.h"

namespace kvcore::bindings {

// The `tenants` argument: None, or a mapping from names to TenantQuota.
TenantQuotas tenants_argument(pybind11::handle object);

}  // namespace kvcore::bindings
