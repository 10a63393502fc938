// expect: discards qualifiers|rvalue|'this' argument
// Giving a lease back uses it up, and the call must say so.
#include <utility>

#include "faaskit/port/lease.h"

void give_back(faaskit::Lease lease) {
#ifdef WRONG
  lease.release();
#else
  std::move(lease).release();
#endif
}
