// expect: nodiscard
// A lease that nobody keeps is retired at once: a sandbox thrown away by a missing name.
#include "faaskit/port/lease.h"

faaskit::Lease make();

void hold() {
#ifdef WRONG
  make();
#else
  faaskit::Lease lease = make();
#endif
}
