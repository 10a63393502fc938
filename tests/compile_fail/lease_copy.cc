// expect: deleted
// Two owners would settle one lease twice.
#include <utility>

#include "faaskit/port/lease.h"

faaskit::Lease another(faaskit::Lease& lease) {
#ifdef WRONG
  return lease;
#else
  return std::move(lease);
#endif
}
